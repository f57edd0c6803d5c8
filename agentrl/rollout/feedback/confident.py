"""Preferences by the model's own confidence, for tasks without a reward."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.rollout.feedback.base import PreferByScore
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class PreferConfident(PreferByScore):
    """The score of an episode is the mean log-probability, in nats, of the tokens of its last turn."""

    def score(self, trajectory: Trajectory) -> float | None:
        logprobs = trajectory.turns[-1].action.logprobs if trajectory.turns else None
        return sum(logprobs) / len(logprobs) if logprobs else None
