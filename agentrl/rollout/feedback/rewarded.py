"""Preferences by reward: the episode of a group that earned most, over the one that earned least."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.rollout.feedback.base import PreferByScore
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class PreferRewarded(PreferByScore):
    """The score of an episode is its reward."""

    def score(self, trajectory: Trajectory) -> float | None:
        return trajectory.reward
