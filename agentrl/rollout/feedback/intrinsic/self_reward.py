"""What the rewards of this folder share: a score for each episode, put into the reward of its last turn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.messages import TokenSignals
from agentrl.rollout.feedback.base import Feedback, rewarded
from agentrl.trajectory import Trajectory, TrajectoryGroup

PART = "self_feedback"


@dataclass(frozen=True)
class SelfReward(Feedback):
    """Adds a score to the reward of each episode's last turn, as its part `self_feedback`. Success stays as it was.

    Attributes:
        weight: of the score.
        keep: factor of the environment's own rewards; 0 leaves the score alone.
    """

    weight: float = 1.0
    keep: float = 0.0

    @abstractmethod
    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        """(G,) the score of each episode of a group; every one has at least one turn and ended in no fault."""

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [self._scored(group) for group in groups]

    def _scored(self, group: TrajectoryGroup) -> TrajectoryGroup:
        found = list(group.trajectories)
        known = [i for i, episode in enumerate(found) if episode.status != "fault" and episode.turns]
        for i, score in zip(known, self.scores([found[i] for i in known]), strict=True):
            found[i] = rewarded(found[i], PART, score, weight=self.weight, keep=self.keep)
        return replace(group, trajectories=found)


def signals_of(episode: Trajectory) -> TokenSignals:
    """The signals of the last turn; one without tokens where nothing was sampled."""
    return episode.turns[-1].action.signals or TokenSignals((), ())
