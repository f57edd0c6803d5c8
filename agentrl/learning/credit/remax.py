"""ReMax: the return of a greedy episode of the same task is the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import Ragged
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class ReMax(Credit):
    """Return minus that of the greedy episode of the group, which itself never trains. Source: `remax`.

    A group whose greedy episode is missing or a fault has no baseline, and teaches nothing.
    """

    @property
    def compares(self) -> bool:
        return False

    @property
    def needs_greedy(self) -> bool:
        return True

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        baselines = [_greedy_return(group) for group in groups]
        # Without a baseline every return is its own: 0.
        known = [0.0 if baseline is None else baseline for baseline in baselines]
        found = remax([group.rewards for group in groups], known)
        advantages = []
        for group, baseline, values_G in zip(groups, baselines, found, strict=True):
            teaches = [baseline is not None and t.trains for t in group.trajectories]
            kept_G = np.where(teaches, values_G, 0.0)
            advantages.append([np.full(len(t.turns), a) for t, a in zip(group.trajectories, kept_G, strict=True)])
        return Advantages(advantages)


def _greedy_return(group: TrajectoryGroup) -> float | None:
    """The return of the group's greedy episode; None if there is none that is scored."""
    greedy = (t for t in group.trajectories if t.labels.mode == "greedy" and t.status != "fault")
    return next((t.reward for t in greedy), None)


def remax(returns: Ragged, greedy_returns: Sequence[float]) -> list[Floats]:
    """Return minus the return of the greedy episode of the same task.

    Args:
        returns: per group, one return per trajectory.
        greedy_returns: per group, the return of one episode sampled at temperature 0.
    Returns: per group, (G,) float64.
    Raises: ValueError if the numbers of groups differ.
    Source: Li et al. 2023, arXiv:2310.10505 (ReMax).
    """
    if len(returns) != len(greedy_returns):
        raise ValueError(f"got {len(returns)} groups but {len(greedy_returns)} greedy returns")
    return [np.asarray(group, np.float64) - greedy for group, greedy in zip(returns, greedy_returns, strict=True)]
