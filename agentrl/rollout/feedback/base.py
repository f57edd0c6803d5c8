"""The contract of feedback: new groups, with reward components or preferences added.

A third party adds one as a frozen dataclass by an entry point in `agentrl.feedbacks`, or by its reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from agentrl.registry import Registry
from agentrl.trajectory import TrajectoryGroup

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


def best_over_worst(scores: Sequence[float | None], margin: float = 0.0) -> tuple[tuple[int, int], ...]:
    """The one preference of the highest over the lowest score, if they differ by more than `margin`.

    Args: scores: one for each episode of a group; None leaves an episode out.
    """
    known = [(score, index) for index, score in enumerate(scores) if score is not None]
    if len(known) < 2:
        return ()
    (low, worst), (high, best) = min(known), max(known)
    return ((best, worst),) if high - low > margin else ()
