"""REINFORCE: the discounted return from each turn on, less a baseline of the step. Compares no group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.config import Share
from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import check_finite, discounted_sums, over_the_step, turn_rewards, with_zeros
from agentrl.trajectory import TrajectoryGroup

Baseline = Literal["none", "mean", "batch_norm"]


@dataclass(frozen=True)
class REINFORCE(Credit):
    """The return from each turn on. Source: `returns_to_go`.

    Attributes:
        gamma: discount per turn.
        baseline: `none`; `mean`: minus the mean over the turns of the step; `batch_norm`: also divided by their
            standard deviation (return batch normalisation).
    """

    gamma: Share = 1.0
    baseline: Baseline = "none"

    @property
    def compares(self) -> bool:
        return False

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        rewards = [turn_rewards(group) for group in groups]
        found = iter(returns_to_go([r for group in rewards for r in group], gamma=self.gamma, baseline=self.baseline))
        return Advantages(
            [with_zeros(group, [next(found) for _ in own]) for group, own in zip(groups, rewards, strict=True)]
        )


@dataclass(frozen=True)
class ReturnBatchNorm(REINFORCE):
    """REINFORCE with return batch normalisation (ReBN), as in GEM. Source: `returns_to_go`."""

    gamma: Share = 0.9
    baseline: Baseline = "batch_norm"


def returns_to_go(rewards: Sequence[Sequence[float] | Floats], *, gamma: float, baseline: Baseline) -> list[Floats]:
    """The discounted return from each turn on, less a baseline of the step.

    Args:
        rewards: of ALL trajectories of the step: (turns,) each.
        gamma: discount per turn.
        baseline: `none`, `mean`, or `batch_norm`.
    Returns: per trajectory, (turns,) float64.
    Raises: ValueError if a reward is not finite.
    Source: Williams 1992, Machine Learning 8, section 4; batch normalisation of returns: Liu et al. 2025,
        arXiv:2510.01051, section 3 (GEM, ReBN).
    """
    returns = [discounted_sums(np.asarray(turns, np.float64), gamma) for turns in rewards]
    for array in returns:
        check_finite(array)
    return returns if baseline == "none" else over_the_step(returns, baseline == "batch_norm")
