"""Any estimator, applied to the groups of each environment alone: statistics over a step never mix environments."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.trajectory import TrajectoryGroup


def by_environment(credit: Credit, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
    """The advantages of each environment's groups, in the order of `groups`.

    An environment is its id and arguments. Estimators that compare within a group give the same as without this. Those
    that centre or divide over the step (REINFORCE++, whitened GAE, ReBN) would otherwise give the episodes of an easy
    environment positive advantages for being of that environment.

    Args:
        credit: the estimator.
        groups, values: as of `Credit`.
    Source: Hessel et al. 2018, arXiv:1809.04474 (PopArt: the scale of each task's returns), here by the step's own
        statistics.
    """
    numbers: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        numbers.setdefault(_environment_of(group), []).append(number)
    if len(numbers) <= 1:
        return credit(groups, values)
    advantages: list[Sequence[Floats]] = [()] * len(groups)
    returns: list[Sequence[Floats]] = [()] * len(groups)
    has_returns = False
    for own in numbers.values():
        found = credit([groups[n] for n in own], None if values is None else [values[n] for n in own])
        has_returns = found.returns is not None
        for place, number in enumerate(own):
            advantages[number] = found.advantages[place]
            returns[number] = () if found.returns is None else found.returns[place]
    return Advantages(advantages, returns if has_returns else None)


def _environment_of(group: TrajectoryGroup) -> str:
    """Equal for groups of one environment, whatever its limits are at the time."""
    ref = group.trajectories[0].env
    return f"{ref.id} {sorted((name, repr(value)) for name, value in ref.kwargs.items())}"
