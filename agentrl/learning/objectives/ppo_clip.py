"""PPO's clipped surrogate, with a bound of its own on each side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.config import NotNegative, Positive
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import PolicyObjective, Sums


@dataclass(frozen=True)
class PPOClip(PolicyObjective):
    """Clipped surrogate. Source: `ppo_clip`.

    Attributes:
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]; a higher upper bound is DAPO's
            clip-higher.
        dual_clip: bound (> 1) on the loss of a negative advantage; None for none.
    """

    clip_low: NotNegative = 0.2
    clip_high: NotNegative = 0.28
    dual_clip: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None and self.dual_clip <= 1.0:
            raise ValueError(f"dual_clip must be above 1, got {self.dual_clip}")

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        old, advantages = batch.column("old_logprobs"), batch.column("advantages")
        loss = ppo_clip(
            scores.logprobs,
            old,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )
        ratio = torch.exp(scores.logprobs.detach() - old)
        return self.weighed(loss, outside(ratio, advantages, self.clip_low, self.clip_high), batch, scores)


def outside(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """(N,) bool, whether the clip took the token's gradient: only on the side to which the advantage pulls."""
    above = (ratio > 1.0 + clip_high) & (advantages > 0)
    below = (ratio < 1.0 - clip_low) & (advantages < 0)
    return above | below


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Tensor:
    """Clipped surrogate, with a bound of its own on each side.

    Args:
        logprobs, old_logprobs, advantages: (N,).
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        dual_clip: bound (> 1) on the loss of a negative advantage: at most -dual_clip * advantage.
    Returns: (N,) loss.
    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; clip-higher: Yu et al. 2025,
        arXiv:2503.14476, eq. 10; dual clip: Ye et al. 2019, arXiv:1912.09729, eq. 5.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
