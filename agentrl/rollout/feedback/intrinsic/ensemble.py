"""The mean of several rewards that a model gives to itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agentrl.rollout.feedback.intrinsic.confidence import Confidence
from agentrl.rollout.feedback.intrinsic.entropy import NegativeEntropy, SelfCertainty
from agentrl.rollout.feedback.intrinsic.majority import MajorityVote
from agentrl.rollout.feedback.intrinsic.self_reward import SelfReward
from agentrl.trajectory import Trajectory

_MEMBERS: tuple[SelfReward, ...] = (Confidence(), NegativeEntropy(), SelfCertainty(), MajorityVote())


@dataclass(frozen=True)
class Ensemble(SelfReward):
    """The mean over four rewards of their ranks in the group, from 0 (lowest) to 1; equal ones share their mean rank.

    The members are confidence, negative entropy, self-certainty and majority vote. After RLER, arXiv:2510.08977, which
    combines the rewards of several models; here one model has several rewards.
    """

    reads_signals: ClassVar[bool] = True

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        found = [ranks(member.scores(group)) for member in _MEMBERS]
        return [float(score) for score in np.mean(found, axis=0)]


def ranks(values: Sequence[float]) -> list[float]:
    """(G,) the rank of each value in [0, 1]; 0.5 where there is one alone."""
    n = len(values)
    if n < 2:
        return [0.5] * n
    return [(sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2) / (n - 1) for v in values]
