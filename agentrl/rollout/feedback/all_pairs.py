"""Preferences between all episodes of a group whose scores differ."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agentrl.config import Count, NotNegative
from agentrl.rollout.feedback.base import Feedback
from agentrl.trajectory import Trajectory, TrajectoryGroup

Pair = tuple[int, int]


@dataclass(frozen=True)
class AllPairs(Feedback):
    """Prefers i over j wherever i has the higher score; each preference has the margin exp(score_i - score_j).

    Attributes:
        threshold: the least score of a preferred episode.
        gap: how much higher it has to be. The same text has scores that differ by rounding.
        most: most preferences of a group; of more, these are drawn at random, by the group's name.
    """

    threshold: float = -math.inf
    gap: NotNegative = 1e-3
    most: Count = 8

    @abstractmethod
    def score(self, trajectory: Trajectory) -> float | None:
        """The score of an episode that trains; None leaves it out."""

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [self._compared(group) for group in groups]

    def _compared(self, group: TrajectoryGroup) -> TrajectoryGroup:
        known: dict[int, float] = {}
        for index, trajectory in enumerate(group.trajectories):
            score = self.score(trajectory) if trajectory.trains else None
            if score is not None:
                known[index] = score
        pairs = drawn(preferred(known, self.threshold, self.gap), self.most, group.group_id)
        margins = tuple(math.exp(known[better] - known[worse]) for better, worse in pairs)
        return replace(group, preferences=tuple(pairs), margins=margins)


def preferred(scores: dict[int, float], threshold: float, gap: float) -> list[Pair]:
    """(better, worse) of all pairs.

    Args: scores: index -> score.
    """
    return [
        (better, worse)
        for better, high in scores.items()
        for worse, low in scores.items()
        if high >= threshold and high > low + gap
    ]


def drawn(pairs: Sequence[Pair], most: int, name: str) -> list[Pair]:
    """At most `most` of the pairs, always the same ones for a name."""
    if len(pairs) <= most:
        return list(pairs)
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(pairs))[:most]
    return [pairs[i] for i in sorted(order)]
