"""CISPO: REINFORCE weighed by a clipped importance ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.config import NotNegative
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import PolicyObjective, Sums


@dataclass(frozen=True)
class CISPO(PolicyObjective):
    """A clipped weight through which no gradient flows; no token loses its gradient. Source: `cispo`.

    Attributes:
        clip_low, clip_high: the weight is clipped to [1 - clip_low, 1 + clip_high]; a `clip_low` of 1 leaves the
            lower side open.
    """

    clip_low: NotNegative = 1.0
    clip_high: NotNegative = 0.28

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        old = batch.column("old_logprobs")
        loss = cispo(scores.logprobs, old, batch.column("advantages"), clip_low=self.clip_low, clip_high=self.clip_high)
        ratio = torch.exp(scores.logprobs.detach() - old)
        was_clipped = (ratio > 1.0 + self.clip_high) | (ratio < 1.0 - self.clip_low)
        return self.weighed(loss, was_clipped, batch, scores)


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """REINFORCE weighed by a clipped importance ratio through which no gradient flows.

    Unlike PPO's clip, it never drops a token's gradient.

    Args:
        logprobs, old_logprobs, advantages: (N,).
        clip_low, clip_high: the weight is clipped to [1 - clip_low, 1 + clip_high]; a `clip_low` of 1
            leaves the lower side open.
    Returns: (N,) loss.
    Source: MiniMax 2025, arXiv:2506.13585, eq. 4 and 5.
    """
    weight = torch.exp(logprobs - old_logprobs).clamp(1.0 - clip_low, 1.0 + clip_high).detach()
    return -weight * advantages * logprobs
