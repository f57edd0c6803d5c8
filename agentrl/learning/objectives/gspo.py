"""GSPO: one clipped ratio per sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        sequence: what has one ratio: a `row` (the unbroken context of an episode), or a `turn` (one action of the
            model, as in GAGPO, arXiv:2605.13217).
    """

    clip_low: NotNegative = 3e-4
    clip_high: NotNegative = 4e-4
    sequence: Literal["row", "turn"] = "row"

    @property
    def columns(self) -> tuple[str, ...]:
        return (*super().columns, "turns") if self.sequence == "turn" else super().columns

    @property
    def unit(self) -> Unit:
        return "row"

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        advantages = batch.column("advantages")
        log_ratio = self._mean(batch, scores.logprobs - batch.column("old_logprobs"))
        loss = gspo(log_ratio, advantages, clip_low=self.clip_low, clip_high=self.clip_high)
        ratio = torch.exp(log_ratio.detach())
        was_clipped = outside(ratio, advantages, self.clip_low, self.clip_high)
        return self.weighed(loss, was_clipped, batch, scores, ratio)

    def _mean(self, batch: Batch, log_ratio: Tensor) -> Tensor:
        """(N,) the mean log ratio of each token's sequence."""
        numbers = batch.rows
        if self.sequence == "turn":
            turns = batch.column("turns").long()
            numbers = batch.rows * (int(turns.max()) + 1) + turns
        _, numbers = torch.unique(numbers, return_inverse=True)
        counts = torch.bincount(numbers).to(log_ratio.dtype)
        return (log_ratio.new_zeros(len(counts)).index_add(0, numbers, log_ratio) / counts)[numbers]


def gspo(sequence_log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """Clipped surrogate with one ratio per sequence: the geometric mean of its tokens' ratios.

    Args:
        sequence_log_ratio: (N,) for each token the mean log ratio of its sequence.
        advantages: (N,).
        clip_low, clip_high: bounds of the sequence ratio.
    Returns: (N,) loss, the same for tokens of a sequence with equal advantages.
    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7; clip range of section 5.1.
    """
    zeros = torch.zeros_like(sequence_log_ratio)
    return ppo_clip(sequence_log_ratio, zeros, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=None)
