"""REINFORCE with importance weights and no clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import PolicyObjective, Sums


@dataclass(frozen=True)
class PolicyGradient(PolicyObjective):
    """Minus ratio times advantage. Source: `policy_gradient`."""

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss = policy_gradient(scores.logprobs, batch.column("old_logprobs"), batch.column("advantages"))
        return self.weighed(loss, torch.zeros_like(loss), batch, scores)


def policy_gradient(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE with importance weights: minus ratio times advantage, no clip.

    On policy its gradient is that of `-advantage * logprob`.

    Args: logprobs, old_logprobs, advantages: (N,).
    Returns: (N,) loss.
    Source: Williams 1992, Machine Learning 8, eq. 11; ratio as in Schulman et al. 2017,
        arXiv:1707.06347, eq. 6.
    """
    return -torch.exp(logprobs - old_logprobs) * advantages
