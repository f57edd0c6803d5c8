"""Preferences by the model's own confidence, for tasks without a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.rollout.feedback.base import Feedback, best_over_worst
from agentrl.trajectory import Trajectory, TrajectoryGroup


@dataclass(frozen=True)
class PreferConfident(Feedback):
    """Adds one preference to each group: the most confident episode over the least confident one.

    Confidence is the mean log-probability, in nats, of the tokens of the last turn.

    Attributes:
        margin: the difference in nats that must be exceeded.
    """

    margin: float = 0.0

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [
            replace(group, preferences=best_over_worst([_confidence(t) for t in group.trajectories], self.margin))
            for group in groups
        ]


def _confidence(trajectory: Trajectory) -> float | None:
    if not trajectory.trains or not trajectory.turns:
        return None
    logprobs = trajectory.turns[-1].action.logprobs
    return sum(logprobs) / len(logprobs) if logprobs else None
