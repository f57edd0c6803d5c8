"""What several estimators do with returns: centring, scaling and discounting. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agentrl.learning.credit.base import Advantages, Floats
from agentrl.trajectory import TrajectoryGroup

Ragged = Sequence[Sequence[float] | Floats]
"""Groups of any size, each with one return per trajectory."""

STD_EPS = 1e-6  # keeps a division by the std of nearly equal returns finite


def standardized(group: Sequence[float] | Floats, normalize_std: bool) -> Floats:
    """Minus the mean, and over the sample standard deviation if asked; fewer than two distinct values give 0."""
    values: Floats = np.asarray(group, np.float64)
    if len(values) < 2 or values.max() == values.min():
        return np.zeros(len(values))
    centred: Floats = values - values.mean()
    scale = float(values.std(ddof=1)) + STD_EPS if normalize_std else 1.0
    return centred / scale


def discounted_sums(rewards: Floats, discount: float) -> Floats:
    """Each turn's reward plus the discounted rewards after it."""
    sums = np.zeros(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = sums[t] = rewards[t] + discount * following
    return sums


def by_trajectory(
    groups: Sequence[TrajectoryGroup], estimate: Callable[[list[list[float]]], list[Floats]]
) -> Advantages:
    """One advantage for each trajectory, from the returns of those that train; the others get 0.

    Args: estimate: per group, (G,) returns to (G,) advantages.
    """
    kept = [[i for i, t in enumerate(group.trajectories) if t.trains] for group in groups]
    returns = [[group.trajectories[i].reward for i in ids] for group, ids in zip(groups, kept, strict=True)]
    found = []
    for group, ids, values in zip(groups, kept, estimate(returns), strict=True):
        advantages = np.zeros(len(group.trajectories))
        advantages[ids] = values
        found.append([np.full(len(t.turns), a) for t, a in zip(group.trajectories, advantages, strict=True)])
    return Advantages(found)
