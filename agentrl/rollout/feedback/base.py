"""The contract of feedback: new groups, with reward components or preferences added.

A third party adds one as a frozen dataclass by an entry point in `agentrl.feedbacks`, or by its reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.config import NotNegative
from agentrl.registry import Registry
from agentrl.trajectory import Trajectory, TrajectoryGroup

FEEDBACKS = Registry(
    "feedback",
    "agentrl.feedbacks",
    {
        "prefer_rewarded": "agentrl.rollout.feedback.rewarded:PreferRewarded",
        "prefer_confident": "agentrl.rollout.feedback.confident:PreferConfident",
    },
)


class Feedback(ABC):
    """A frozen dataclass of its own numbers. It never changes success and never drops an episode."""

    @abstractmethod
    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        """The groups with what it adds."""


@dataclass(frozen=True)
class PreferByScore(Feedback):
    """Adds one preference to each group: the episode of the highest score over that of the lowest.

    Attributes:
        margin: the difference in score that must be exceeded.
    """

    margin: NotNegative = 0.0

    @abstractmethod
    def score(self, trajectory: Trajectory) -> float | None:
        """The score of an episode that trains; None leaves it out."""

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [replace(group, preferences=self._preferences(group)) for group in groups]

    def _preferences(self, group: TrajectoryGroup) -> tuple[tuple[int, int], ...]:
        scores = [self.score(t) if t.trains else None for t in group.trajectories]
        known = [(score, index) for index, score in enumerate(scores) if score is not None]
        if len(known) < 2:
            return ()
        (low, worst), (high, best) = min(known), max(known)
        return ((best, worst),) if high - low > self.margin else ()
