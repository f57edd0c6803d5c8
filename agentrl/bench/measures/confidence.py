"""Measures of confidence: how well it fits success, and what choosing the most confident answer gives.

All read `Action.signals`; an episode that was sampled without them is left out.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from agentrl.bench.estimates import Estimate, cluster_bootstrap, clustered_proportion, mean_over_trials
from agentrl.bench.measures.base import SHARE, Measure, scored
from agentrl.learning.confidence import calibration
from agentrl.learning.confidence.span import sureness
from agentrl.trajectory import Trajectory

Kind = Literal["disparity", "probability"]
Answer = tuple[float, float]
"""Confidence, and success (0 or 1)."""


@dataclass(frozen=True)
class OfConfidence(Measure):
    """What these measures share: a statistic of all answers' confidence and success.

    Attributes:
        of: `disparity` is RLSF's c, the mean over the answer's tokens of p1 - p2; `probability` is the product of the
            probabilities of the answer's tokens.
    """

    of: Kind = "disparity"
    unit: ClassVar[str] = SHARE
    reads_signals: ClassVar[bool] = True
    label: ClassVar[str]

    @property
    def name(self) -> str:
        return self.label if self.of == "disparity" else f"{self.label}:{self.of}"

    @abstractmethod
    def statistic(self, answers: Sequence[Answer]) -> float:
        """Of at least one answer; nan where it is not known."""

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        return self._interval(self._answers(episodes))

    def value(self, episodes: Sequence[Trajectory]) -> float:
        by_task = self._answers(episodes)
        return self._of_tasks(by_task) if by_task else math.nan

    def _answers(self, episodes: Sequence[Trajectory]) -> list[list[Answer]]:
        return answers_by_task(episodes, self.of)

    def _interval(self, by_task: Sequence[Sequence[Answer]]) -> Estimate:
        return cluster_bootstrap(by_task, self._of_tasks, resamples=500)

    def _of_tasks(self, by_task: Sequence[Sequence[Answer]]) -> float:
        return self.statistic([answer for answers in by_task for answer in answers])


@dataclass(frozen=True)
class CalibrationError(OfConfidence):
    """Expected calibration error over 10 bins of equal width; a confidence of 0 counts."""

    label = "ece"

    def statistic(self, answers: Sequence[Answer]) -> float:
        return calibration.calibration_error(*_columns(answers))

    def bars(self, episodes: Sequence[Trajectory]) -> list[calibration.Bin]:
        """The bars of the reliability diagram; none without an answer."""
        answers = [answer for answers in answers_by_task(episodes, self.of) for answer in answers]
        return calibration.reliability(*_columns(answers)) if answers else []


@dataclass(frozen=True)
class CalibrationErrorEqualMass(OfConfidence):
    """Expected calibration error over 10 bins that hold equally many answers."""

    label = "ece_equal_mass"

    def statistic(self, answers: Sequence[Answer]) -> float:
        return calibration.calibration_error(*_columns(answers), equal_mass=True)


@dataclass(frozen=True)
class CalibrationErrorScaled(CalibrationError):
    """Expected calibration error after temperature scaling: the baseline of every claim of calibration.

    The temperature of every second task is fitted on the other tasks.
    """

    label = "ece_scaled"

    def _answers(self, episodes: Sequence[Trajectory]) -> list[list[Answer]]:
        return scaled_by_task(super()._answers(episodes))


@dataclass(frozen=True)
class Brier(OfConfidence):
    """The mean squared difference of confidence and success."""

    label = "brier"
    unit = "squared difference"

    def statistic(self, answers: Sequence[Answer]) -> float:
        return calibration.brier(*_columns(answers))


@dataclass(frozen=True)
class Auroc(OfConfidence):
    """The chance that a right answer is more confident than a wrong one; ties count one half."""

    label = "auroc"

    def statistic(self, answers: Sequence[Answer]) -> float:
        return calibration.auroc(*_columns(answers))


@dataclass(frozen=True)
class MeanConfidence(OfConfidence):
    """The mean confidence over answers."""

    label = "confidence"

    def statistic(self, answers: Sequence[Answer]) -> float:
        return float(np.mean([confidence for confidence, _ in answers]))

    def _interval(self, by_task: Sequence[Sequence[Answer]]) -> Estimate:
        return mean_over_trials([[confidence for confidence, _ in answers] for answers in by_task])


@dataclass(frozen=True)
class MostConfident(OfConfidence):
    """The share of tasks whose most confident trial succeeds; the first of equally confident ones counts."""

    label = "most_confident"

    def statistic(self, answers: Sequence[Answer]) -> float:
        return max(answers, key=lambda answer: answer[0])[1]

    def _of_tasks(self, by_task: Sequence[Sequence[Answer]]) -> float:
        return float(np.mean([self.statistic(answers) for answers in by_task]))

    def _interval(self, by_task: Sequence[Sequence[Answer]]) -> Estimate:
        return clustered_proportion([[self.statistic(answers)] for answers in by_task])


def answers_by_task(episodes: Sequence[Trajectory], of: Kind = "disparity") -> list[list[Answer]]:
    """Confidence and success of the scored episodes of each task that has any."""
    found: dict[str, list[Answer]] = {}
    for episode in scored(episodes):
        sure = sureness(episode)
        if sure is not None:
            confidence = sure.disparity if of == "disparity" else sure.probability
            found.setdefault(episode.task.id, []).append((confidence, float(episode.success)))
    return list(found.values())


def scaled_by_task(by_task: Sequence[Sequence[Answer]]) -> list[list[Answer]]:
    """The answers with confidences after temperature scaling; as they were where one half has no task."""
    halves = [[answer for answers in by_task[half::2] for answer in answers] for half in (0, 1)]
    if not all(halves):
        return [list(answers) for answers in by_task]
    temperatures = [calibration.fit_temperature(*_columns(half)) for half in reversed(halves)]
    return [_scaled(answers, temperatures[number % 2]) for number, answers in enumerate(by_task)]


def _scaled(answers: Sequence[Answer], temperature: float) -> list[Answer]:
    confidences, successes = _columns(answers)
    return list(zip(calibration.scaled(confidences, temperature).tolist(), successes, strict=True))


def _columns(answers: Sequence[Answer]) -> tuple[list[float], list[float]]:
    return [c for c, _ in answers], [y for _, y in answers]
