"""The model's confidence in its answer as reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from agentrl.config import Fraction
from agentrl.learning.confidence.span import sureness
from agentrl.rollout.feedback.intrinsic.self_reward import SelfReward
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Confidence(SelfReward):
    """c = mean over the answer's tokens of p1 - p2; 0 without an answer. Source: RLSF, arXiv:2507.21931, eq. 1."""

    reads_signals: ClassVar[bool] = True

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        return confidences(group)


@dataclass(frozen=True)
class MostConfident(SelfReward):
    """1 for the most confident episode of a group (the first of equal ones), 0 for the others and for c = 0.

    With `algorithm = "rejection_sampling"` this is supervised training on the most confident sample.

    Attributes:
        threshold: the least confidence that is rewarded.
    """

    reads_signals: ClassVar[bool] = True
    threshold: Fraction = 0.0

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        found = confidences(group)
        best = found.index(max(found)) if found else -1
        return [float(i == best and c > 0 and c >= self.threshold) for i, c in enumerate(found)]


def confidences(group: Sequence[Trajectory]) -> list[float]:
    """(G,) c of each episode; 0 where it was sampled without signals."""
    found = [sureness(episode) for episode in group]
    return [one.disparity if one is not None else 0.0 for one in found]
