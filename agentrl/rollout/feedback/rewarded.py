"""Preferences by reward: the episode of a group that earned most, over the one that earned least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.rollout.feedback.base import Feedback, best_over_worst
from agentrl.trajectory import Trajectory, TrajectoryGroup


@dataclass(frozen=True)
class PreferRewarded(Feedback):
    """Adds one preference to each group whose rewards differ.

    Attributes:
        margin: the difference in reward that must be exceeded.
    """

    margin: float = 0.0

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [
            replace(group, preferences=best_over_worst([_reward(t) for t in group.trajectories], self.margin))
            for group in groups
        ]


def _reward(trajectory: Trajectory) -> float | None:
    return trajectory.reward if trajectory.trains else None
