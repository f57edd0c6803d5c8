"""What an episode earns that was cut off at a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.learning.shaping.base import Shaping
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Truncated(Shaping):
    """Adds to the last turn of an episode that was cut off; the others stay as they are.

    Attributes:
        added: to the reward of the last turn; a penalty is negative.
        keep: share of what the episode earned before that it keeps; 0 makes `added` its whole reward.
    """

    added: float = 0.0
    keep: float = 1.0

    def rewards(self, trajectory: Trajectory) -> Sequence[float]:
        if trajectory.status != "truncated":
            return [turn.reward for turn in trajectory.turns]
        rewards = [self.keep * turn.reward for turn in trajectory.turns]
        rewards[-1] += self.added
        return rewards
