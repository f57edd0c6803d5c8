"""The contract of reward shapings: groups in, groups with other rewards out. Owns no advantage.

A shaping is read by the estimator alone: success, records and reports keep the environment's reward. One is added from
outside as a frozen dataclass: an entry point in the group `agentrl.shapings`, or a reference `module:Class`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from msgspec import structs

from agentrl.config.field_checks import check_fields
from agentrl.registry import Registry
from agentrl.trajectory import Trajectory, TrajectoryGroup

SHAPINGS = Registry(
    "reward shaping",
    "agentrl.shapings",
    {
        "overlong": "agentrl.learning.shaping.overlong:Overlong",
        "components": "agentrl.learning.shaping.components:Components",
        "truncated": "agentrl.learning.shaping.truncated:Truncated",
    },
)


class Shaping(ABC):
    """A frozen dataclass of its own numbers; a pure function of each episode."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def rewards(self, trajectory: Trajectory) -> Sequence[float]:
        """(turns,) the reward of each turn, for training.

        Args: trajectory: of any ending; it has at least one turn.
        """

    def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        """Copies of the groups with these rewards; the given ones stay as they are."""
        return [replace(group, trajectories=[self._of(t) for t in group.trajectories]) for group in groups]

    def _of(self, trajectory: Trajectory) -> Trajectory:
        return with_rewards(trajectory, self.rewards(trajectory)) if trajectory.turns else trajectory


def with_rewards(trajectory: Trajectory, rewards: Iterable[float]) -> Trajectory:
    """A copy of the episode whose turns have other rewards.

    Args: rewards: (turns,).
    """
    turns = [structs.replace(turn, reward=float(r)) for turn, r in zip(trajectory.turns, rewards, strict=True)]
    return replace(trajectory, turns=turns)
