"""Preferences by success: the control that knows the right answers."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.rollout.feedback.all_pairs import AllPairs
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class GoldPairs(AllPairs):
    """Prefers each solved episode over each unsolved one."""

    def score(self, trajectory: Trajectory) -> float | None:
        return float(trajectory.success)
