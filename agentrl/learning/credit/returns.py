"""What several estimators do with returns: centring, scaling and discounting. Pure numpy.

Finite returns of any size give finite results: they are scaled before they are squared or added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agentrl.learning.credit.base import Advantages, Floats
from agentrl.trajectory import TrajectoryGroup

Ragged = Sequence[Sequence[float] | Floats]
"""Groups of any size, each with one return per trajectory."""

STD_EPS = 1e-6  # keeps a division by the std of nearly equal returns finite
_SAFE = 1e100  # the square of a larger number overflows


def standardized(group: Sequence[float] | Floats, normalize_std: bool, *, ddof: int = 1) -> Floats:
    """Minus the mean, and over the standard deviation if asked; fewer than two distinct values give 0.

    Args:
        group: (G,) returns.
        normalize_std: divide by the standard deviation plus 1e-6.
        ddof: 1 for the sample standard deviation, 0 for that of the population.
    Raises: ValueError if a return is not finite.
    """
    values: Floats = np.asarray(group, np.float64)
    check_finite(values)
    if len(values) < 2 or values.max() == values.min():
        return np.zeros(len(values))
    largest = float(np.abs(values).max())
    unit = largest if largest > _SAFE else 1.0
    centred: Floats = values / unit - (values / unit).mean()
    if normalize_std:
        return centred / (float(centred.std(ddof=ddof)) + STD_EPS / unit)
    return centred * unit


def check_finite(values: Floats) -> None:
    """Raises: ValueError if a return is infinite or not a number."""
    if not np.isfinite(values).all():
        raise ValueError(f"returns must be finite, got {values.tolist()}: an environment must not give such a reward")


def discounted_sums(rewards: Floats, discount: float) -> Floats:
    """Each turn's reward plus the discounted rewards after it."""
    sums = np.zeros(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = sums[t] = rewards[t] + discount * following
    return sums


def turn_rewards(group: TrajectoryGroup) -> list[Floats]:
    """Per trajectory that trains, (turns,) rewards."""
    return [np.array([turn.reward for turn in t.turns], np.float64) for t in group.trajectories if t.trains]


def with_zeros(group: TrajectoryGroup, found: Sequence[Floats]) -> list[Floats]:
    """An advantage array for every trajectory of a group, from those of the ones that train; the others get 0."""
    taught = iter(found)
    return [next(taught) if t.trains else np.zeros(len(t.turns)) for t in group.trajectories]


def by_trajectory(
    groups: Sequence[TrajectoryGroup], estimate: Callable[[list[list[float]]], list[Floats]]
) -> Advantages:
    """One advantage for each trajectory, from the returns of those that train; the others get 0.

    Args: estimate: per group, (G,) returns to (G,) advantages.
    """
    kept = [[t for t in group.trajectories if t.trains] for group in groups]
    found = estimate([[t.reward for t in taught] for taught in kept])
    return Advantages(
        [
            with_zeros(group, [np.full(len(t.turns), a) for t, a in zip(taught, values, strict=True)])
            for group, taught, values in zip(groups, kept, found, strict=True)
        ]
    )


def over_the_step(arrays: Sequence[Floats], normalize_std: bool = True) -> list[Floats]:
    """Arrays of a step, standardised by the mean and sample standard deviation of all their numbers together."""
    whole = standardized(np.concatenate(arrays) if arrays else np.zeros(0), normalize_std)
    return [np.asarray(part) for part in np.split(whole, np.cumsum([len(array) for array in arrays])[:-1])][
        : len(arrays)
    ]
