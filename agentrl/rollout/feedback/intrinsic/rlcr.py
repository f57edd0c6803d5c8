"""Correctness minus the Brier score of the confidence: a reward that knows the right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from agentrl.learning.confidence.span import sureness
from agentrl.rollout.feedback.intrinsic.self_reward import SelfReward
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class CorrectMinusBrier(SelfReward):
    """y - (q - y)^2: y is success (0 or 1), q the probability of the answer's tokens.

    Source: RLCR, arXiv:2507.16806, eq. 1; there the model writes q down, here it is read from its distribution.
    """

    reads_signals: ClassVar[bool] = True

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        return [_of(float(episode.success), _probability(episode)) for episode in group]


def _of(y: float, q: float) -> float:
    return y - (q - y) ** 2


def _probability(episode: Trajectory) -> float:
    sure = sureness(episode)
    return sure.probability if sure is not None else 0.0
