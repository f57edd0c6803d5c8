"""Measures of predicted numbers: of single answers, of the aggregated answers of a task, and of their distribution.

They read what `agentrl.rollout.predictions` describes, and leave out episodes of environments that ask for no number.
Errors are in the unit of the target.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from agentrl.bench.estimates import Estimate, ValuesByTask, cluster_bootstrap, clustered_proportion
from agentrl.bench.measures.base import SHARE, Measure, PerEpisode, scored
from agentrl.bench.statistics.families import Families
from agentrl.rollout.predictions import IS_NUMBER, PREDICTION, crps, finite_number, prediction_of
from agentrl.trajectory import Trajectory

Floats = npt.NDArray[np.float64]
Aggregate = Literal["sample", "mean", "median", "mode"]
_TARGET_UNIT = "target"
_RESAMPLES = 500
_LEVEL = 0.8


class OfTask(NamedTuple):
    """The predictions of one task and its target."""

    predicted: Floats
    target: float


def _mode(predicted: Floats) -> float:
    """The most frequent number; of several the one nearest to the median, of those the smallest."""
    values, counts = np.unique(predicted, return_counts=True)
    modes = values[counts == counts.max()]
    return float(modes[np.argmin(np.abs(modes - np.median(predicted)))])


AGGREGATES: Mapping[str, Callable[[Floats], float]] = {
    "mean": lambda predicted: float(predicted.mean()),
    "median": lambda predicted: float(np.median(predicted)),
    "mode": _mode,
}


class _OfNumbers(Measure):
    """A statistic of tasks with predictions; its interval is a bootstrap over tasks."""

    @abstractmethod
    def of(self, tasks: Sequence[OfTask]) -> float:
        """The statistic; nan where it is not known.

        Args: tasks: at least one.
        """

    def value(self, episodes: Sequence[Trajectory]) -> float:
        tasks = predictions_by_task(episodes)
        return self.of(tasks) if tasks else math.nan

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        return cluster_bootstrap(predictions_by_task(episodes), self.of, resamples=_RESAMPLES)


class _OfEachTask(_OfNumbers):
    """The mean over tasks of a number that each task has."""

    @abstractmethod
    def of_task(self, task: OfTask) -> float:
        """The number of one task."""

    def of(self, tasks: Sequence[OfTask]) -> float:
        return float(np.mean([self.of_task(task) for task in tasks]))

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        each = [self.of_task(task) for task in predictions_by_task(episodes)]
        return cluster_bootstrap(each, lambda values: float(np.mean(values)), resamples=_RESAMPLES)


@dataclass(frozen=True)
class _OfPairs(_OfNumbers):
    """A statistic of pairs of a target and a prediction.

    Attributes:
        aggregate: `sample`: each answer is a prediction; else one of each task's answers: their mean, median or mode.
    """

    aggregate: Aggregate = "sample"

    @property
    def family(self) -> str:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.family if self.aggregate == "sample" else f"{self.family}:{self.aggregate}"

    @abstractmethod
    def of_pairs(self, targets: Floats, predicted: Floats) -> float:
        """The statistic. Args: targets, predicted: (N,) each."""

    def of(self, tasks: Sequence[OfTask]) -> float:
        return self._of_answers([self._aggregated(task) for task in tasks])

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        tasks = [self._aggregated(task) for task in predictions_by_task(episodes)]
        return cluster_bootstrap(tasks, self._of_answers, resamples=_RESAMPLES)

    def _of_answers(self, tasks: Sequence[OfTask]) -> float:
        targets = np.repeat([task.target for task in tasks], [len(task.predicted) for task in tasks])
        return self.of_pairs(targets, np.concatenate([task.predicted for task in tasks]))

    def _aggregated(self, task: OfTask) -> OfTask:
        """The task with one prediction, or with each answer as one."""
        if self.aggregate == "sample":
            return task
        return OfTask(np.array([AGGREGATES[self.aggregate](task.predicted)]), task.target)


@dataclass(frozen=True)
class RMSE(_OfPairs):
    """Root of the mean squared error."""

    family = "rmse"
    unit = _TARGET_UNIT

    def of_pairs(self, targets: Floats, predicted: Floats) -> float:
        return math.sqrt(float(np.mean((targets - predicted) ** 2)))


@dataclass(frozen=True)
class MAE(_OfPairs):
    """Mean absolute error."""

    family = "mae"
    unit = _TARGET_UNIT

    def of_pairs(self, targets: Floats, predicted: Floats) -> float:
        return float(np.mean(np.abs(targets - predicted)))


@dataclass(frozen=True)
class R2(_OfPairs):
    """Share of the targets' variance that is explained: 1 - squared error / squared distance from their mean."""

    family = "r2"
    unit = "r2"

    def of_pairs(self, targets: Floats, predicted: Floats) -> float:
        total = float(np.sum((targets - targets.mean()) ** 2))
        return 1 - float(np.sum((targets - predicted) ** 2)) / total if total else math.nan


@dataclass(frozen=True)
class Spearman(_OfPairs):
    """Correlation of the ranks of targets and predictions; equal numbers share their mean rank."""

    family = "spearman"
    unit = "correlation"

    def of_pairs(self, targets: Floats, predicted: Floats) -> float:
        first, second = _ranks(targets), _ranks(predicted)
        first, second = first - first.mean(), second - second.mean()
        norm = math.sqrt(float(first @ first) * float(second @ second))
        return float(first @ second) / norm if norm else math.nan


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[place]
    return ranks


@dataclass(frozen=True)
class CRPS(_OfEachTask):
    """Continuous ranked probability score of the model's distribution, from the answers of each task. Source: `crps`.

    One answer a task gives the mean absolute error.
    """

    name = "crps"
    unit = _TARGET_UNIT

    def of_task(self, task: OfTask) -> float:
        return crps(task.predicted, task.target)


@dataclass(frozen=True)
class Coverage(_OfEachTask):
    """The share of tasks whose target is in the central interval of the task's answers.

    Attributes:
        level: of the interval: at 0.8 it is from the 10% to the 90% quantile of the answers, ends included.
    """

    level: float = _LEVEL
    unit = SHARE

    def __post_init__(self) -> None:
        _check_level(self.level)

    @property
    def name(self) -> str:
        return _named("coverage", self.level)

    def of_task(self, task: OfTask) -> float:
        low, high = interval(task.predicted, self.level)
        return float(low <= task.target <= high)


@dataclass(frozen=True)
class IntervalWidth(_OfEachTask):
    """The mean width of the central interval of a task's answers, as in `Coverage`."""

    level: float = _LEVEL
    unit = _TARGET_UNIT

    def __post_init__(self) -> None:
        _check_level(self.level)

    @property
    def name(self) -> str:
        return _named("interval_width", self.level)

    def of_task(self, task: OfTask) -> float:
        low, high = interval(task.predicted, self.level)
        return high - low


@dataclass(frozen=True)
class NoNumber(PerEpisode):
    """The share of answers that are no number; in the other measures each counts as a number far away."""

    name = "no_number"
    unit = SHARE

    def of(self, episode: Trajectory) -> float:
        if prediction_of(episode) is None:
            return math.nan
        said = finite_number(episode.info.get(PREDICTION))
        return float(not episode.info.get(IS_NUMBER, True) or said is None)

    def estimate(self, values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
        return clustered_proportion(values_by_task, families=families)


def interval(predicted: Floats, level: float) -> tuple[float, float]:
    """The central interval between two quantiles, interpolated linearly."""
    with np.errstate(invalid="ignore"):  # between two infinities
        low, high = np.quantile(predicted, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _named(family: str, level: float) -> str:
    return family if level == _LEVEL else f"{family}:{level:g}"


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def predictions_by_task(episodes: Sequence[Trajectory]) -> list[OfTask]:
    """The predictions of each task, tasks in order of first appearance; faults are left out."""
    predicted: dict[str, list[float]] = {}
    targets: dict[str, float] = {}
    for episode in scored(episodes):
        found = prediction_of(episode)
        if found is not None:
            predicted.setdefault(episode.task.id, []).append(found.value)
            targets[episode.task.id] = found.target
    return [OfTask(np.array(values), targets[task]) for task, values in predicted.items()]
