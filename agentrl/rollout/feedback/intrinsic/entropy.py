"""Rewards for distributions that are far from flat, over the tokens of the whole turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from agentrl.rollout.feedback.intrinsic.self_reward import SelfReward, signals_of
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class NegativeEntropy(SelfReward):
    """Minus the mean entropy of the turn's tokens, in nats. Source: RENT, arXiv:2505.22660, eq. 3."""

    reads_signals: ClassVar[bool] = True

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        return [-_mean(signals_of(episode).entropies) for episode in group]


@dataclass(frozen=True)
class SelfCertainty(SelfReward):
    """The mean over the turn's tokens of KL(U || p), U being uniform. Source: Intuitor, arXiv:2505.19590, eq. 2."""

    reads_signals: ClassVar[bool] = True

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        return [_mean(signals_of(episode).uniform_kls) for episode in group]


def _mean(values: Sequence[float] | None) -> float:
    return fmean(values) if values else 0.0
