"""Forked credit: what a turn changed, as episodes show that were played on from before it and from after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import discounted_sums, with_zeros
from agentrl.trajectory import TrajectoryGroup

Origin = tuple[int, int] | None
"""(episode, turn) that an episode continues; None if it was played from the beginning."""


@dataclass(frozen=True)
class Forked(Credit):
    """Differences between the values of states, which continuations estimate. Source: `forked`.

    Needs `playing.forks`. The continuations train too, from the turn on at which they begin.
    """

    @property
    def compares(self) -> bool:
        return False

    @property
    def reads_forks(self) -> bool:
        return True

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return Advantages([self._of(group) for group in groups])

    def teaches(self, group: TrajectoryGroup) -> bool:
        return any(values.any() for values in self._of(group))

    def _of(self, group: TrajectoryGroup) -> list[Floats]:
        kept = [t for t in group.trajectories if t.trains]
        roots = [t for t in kept if t.fork is None]
        place = {t.episode_id: number for number, t in enumerate(roots)}
        origins: list[Origin] = [None] * len(roots)
        known = list(roots)
        for trajectory in kept:
            if trajectory.fork is not None and trajectory.fork[0] in place:
                known.append(trajectory)
                origins.append((place[trajectory.fork[0]], trajectory.fork[1]))
        found = forked([[turn.reward for turn in t.turns] for t in known], origins)
        by_id = {id(t): values for t, values in zip(known, found, strict=True)}
        return with_zeros(group, [by_id.get(id(t), np.zeros(len(t.turns))) for t in kept])


def forked(rewards: Sequence[Sequence[float] | Floats], origins: Sequence[Origin]) -> list[Floats]:
    """The advantage of each turn of ONE group of episodes and of their continuations.

    A state's value is the mean of what other episodes earned from it on. Of a turn at which an episode was forked these
    are its continuations; of the state in which an episode begins, the other episodes that begin in it and, for a
    continuation, the one it continues. An episode is cut at the turns whose values are known, and every turn of a part
    gets what the part earned, plus the value at its end (0 at the end of the episode), minus the value at its start.
    Where a turn and the one after it are both forked, the expectation is the true advantage. Elsewhere it is that of
    the part as a whole; the gradient is unbiased as long as the choice of turns does not depend on the actions (`every`
    and `random`; `entropy` looks at the sampled tokens, which biases it). Without forks it is RLOO; with a fork at
    every turn it is VinePPO, with turns as its reasoning steps.

    Args:
        rewards: per episode, (turns,) of its whole length; a continuation begins with the turns that it shares.
        origins: per episode, which it continues, and from which turn on.
    Returns: per episode, (turns,) float64; 0 before the turn at which a continuation begins, and in a first part whose
        start no other episode shares.
    Raises: ValueError if the lengths differ, or an episode continues itself, a continuation, or a turn that is not one.
    Source: Kazemnejad et al. 2024, arXiv:2410.01679, section 4 (VinePPO); the continuations' own advantages are those
        of RLOO, arXiv:2402.14740.
    """
    steps = [np.asarray(turns, np.float64) for turns in rewards]
    children = _children(steps, origins)
    to_go = [discounted_sums(turns, 1.0) for turns in steps]
    roots = [number for number, origin in enumerate(origins) if origin is None]
    advantages = []
    for number, (turns, origin) in enumerate(zip(steps, origins, strict=True)):
        begin = 0 if origin is None else origin[1]
        alike = roots if origin is None else [origin[0], *children[origin]]
        values = {begin: [to_go[other][begin] for other in alike if other != number]}
        values |= {t: [to_go[c][t] for c in own] for (parent, t), own in children.items() if parent == number}
        advantages.append(_by_parts(turns, {t: np.mean(earned) for t, earned in values.items() if earned}, begin))
    return advantages


def _by_parts(rewards: Floats, values: dict[int, np.floating], begin: int) -> Floats:
    """(turns,) what the part around each turn earned more than the value at its start."""
    found = np.zeros(len(rewards))
    cuts = sorted({begin, *values})
    for start, end in zip(cuts, [*cuts[1:], len(rewards)], strict=True):
        if start in values:
            found[start:end] = rewards[start:end].sum() + values.get(end, np.float64(0.0)) - values[start]
    return found


def _children(steps: Sequence[Floats], origins: Sequence[Origin]) -> dict[tuple[int, int], list[int]]:
    """The continuations of each (episode, turn)."""
    children: dict[tuple[int, int], list[int]] = {}
    for number, (_, origin) in enumerate(zip(steps, origins, strict=True)):
        if origin is None:
            continue
        parent, turn = origin
        if not 0 <= parent < len(steps) or origins[parent] is not None:
            raise ValueError(
                f"episode {number} continues {parent}, which is not one that was played from the beginning"
            )
        if not 1 <= turn < len(steps[parent]):
            raise ValueError(f"episode {number} continues turn {turn} of an episode with {len(steps[parent])} turns")
        children.setdefault(origin, []).append(number)
    return children
