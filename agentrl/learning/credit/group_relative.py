"""Estimators that compare a trajectory's return with those of its group, or of its step. Pure functions.

Statistics are per trajectory: the number of its turns or tokens never enters a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import Ragged, by_trajectory, over_the_step, standardized
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class GRPO(Credit):
    """Return minus the mean of its group, over the group's standard deviation. Source: `grpo`."""

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return by_trajectory(groups, grpo)


@dataclass(frozen=True)
class DrGRPO(Credit):
    """Return minus the mean of its group. Source: `dr_grpo`."""

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return by_trajectory(groups, dr_grpo)


@dataclass(frozen=True)
class RLOO(Credit):
    """Return minus the mean of the other trajectories of its group. Source: `rloo`."""

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return by_trajectory(groups, rloo)


@dataclass(frozen=True)
class ReinforcePlusPlus(Credit):
    """Returns normalised over the whole step. Source: `reinforce_plus_plus`.

    Attributes:
        group_baseline: subtract each group's mean first (REINFORCE++-baseline).
    """

    group_baseline: bool = False

    @property
    def compares(self) -> bool:
        return self.group_baseline

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return by_trajectory(groups, lambda returns: reinforce_plus_plus(returns, group_baseline=self.group_baseline))


def grpo(returns: Ragged, *, normalize_std: bool = True) -> list[Floats]:
    """Return minus the mean of its group, over the group's sample standard deviation.

    Args:
        returns: per group, one return per trajectory.
        normalize_std: divide by the standard deviation (ddof 1); False is Dr. GRPO.
    Returns: per group, (G,) float64 that sums to zero; a group of one, or of equal returns, gives 0.
    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2 (outcome supervision).
    """
    return [standardized(group, normalize_std) for group in returns]


def dr_grpo(returns: Ragged) -> list[Floats]:
    """Return minus the mean of its group, without division by the std.

    Source: Liu et al. 2025, arXiv:2503.20783, section 3.2.
    """
    return grpo(returns, normalize_std=False)


def rloo(returns: Ragged) -> list[Floats]:
    """Return minus the mean of the OTHER trajectories of its group.

    Returns: per group, (G,) float64; a group of one gives 0.
    Source: Ahmadian et al. 2024, arXiv:2402.14740, section 2.2 (RLOO; Kool et al. 2019).
    """
    return [centred * (len(centred) / max(1, len(centred) - 1)) for centred in dr_grpo(returns)]


def reinforce_plus_plus(returns: Ragged, *, group_baseline: bool = False) -> list[Floats]:
    """Returns normalised by mean and std of the whole step rather than of each group.

    Args:
        returns: per group, one return per trajectory.
        group_baseline: subtract each group's mean first (REINFORCE++-baseline).
    Returns: per group, (G,) float64; zeros where the step has fewer than two distinct values.
    Source: Hu 2025, arXiv:2501.03262.
    """
    groups = dr_grpo(returns) if group_baseline else [np.asarray(group, np.float64) for group in returns]
    return over_the_step(groups)
