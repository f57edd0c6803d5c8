"""Rejection-sampling fine-tuning: the episodes that are good enough are imitated, the others are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import Ragged, by_trajectory
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class Rejection(Credit):
    """Advantage 1 for accepted episodes, 0 for the others: with `policy_gradient` it is imitation. Source: `accepted`.

    Attributes:
        threshold: the least return of an accepted episode.
        best_only: accept the best of each group alone, and only if it passes the threshold.
    """

    threshold: float = 1.0
    best_only: bool = False

    @property
    def compares(self) -> bool:
        return False

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return by_trajectory(groups, lambda returns: accepted(returns, self.threshold, best_only=self.best_only))

    def teaches(self, group: TrajectoryGroup) -> bool:
        return any(values.any() for values in self([group], None).advantages[0])


def accepted(returns: Ragged, threshold: float, *, best_only: bool) -> list[Floats]:
    """1 for accepted trajectories, 0 for the others.

    Args:
        returns: per group, one return per trajectory.
        threshold: the least return that is accepted.
        best_only: of each group the first of the largest return alone.
    Returns: per group, (G,) float64.
    Source: Yuan et al. 2023, arXiv:2308.01825 (RFT); the best alone: Dong et al. 2023, arXiv:2304.06767 (RAFT).
    """
    found = []
    for group in returns:
        kept = np.asarray(group, np.float64) >= threshold
        if best_only and kept.any():
            kept &= np.arange(len(kept)) == int(np.argmax(group))
        found.append(kept.astype(np.float64))
    return found
