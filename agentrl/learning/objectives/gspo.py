"""GSPO: one clipped ratio per sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.config import NotNegative
from agentrl.learning.batches import Unit
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import PolicyObjective, Sums
from agentrl.learning.objectives.ppo_clip import outside, ppo_clip


@dataclass(frozen=True)
class GSPO(PolicyObjective):
    """Clipped surrogate with the geometric mean of a sequence's ratios. Source: `gspo`.

    Attributes:
        clip_low, clip_high: bounds of the sequence ratio; its spread is far smaller than a token's.
    """

    clip_low: NotNegative = 3e-4
    clip_high: NotNegative = 4e-4

    @property
    def unit(self) -> Unit:
        return "row"

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        advantages = batch.column("advantages")
        log_ratio = batch.unit_mean(scores.logprobs - batch.column("old_logprobs"))[batch.units]
        loss = gspo(log_ratio, advantages, clip_low=self.clip_low, clip_high=self.clip_high)
        ratio = torch.exp(log_ratio.detach())
        return self.weighed(loss, outside(ratio, advantages, self.clip_low, self.clip_high), batch, scores)


def gspo(sequence_log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """Clipped surrogate with one ratio per sequence: the geometric mean of its tokens' ratios.

    A sequence is a row: the unbroken context of a trajectory.

    Args:
        sequence_log_ratio: (N,) for each token the mean log ratio of its sequence.
        advantages: (N,).
        clip_low, clip_high: bounds of the sequence ratio.
    Returns: (N,) loss, the same for tokens of a sequence with equal advantages.
    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7; clip range of section 5.1.
    """
    zeros = torch.zeros_like(sequence_log_ratio)
    return ppo_clip(sequence_log_ratio, zeros, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=None)
