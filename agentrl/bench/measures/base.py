"""The contract of measures: final episodes in, one statistic with unit and interval out. Owns no formula.

A third party adds one as a frozen dataclass by an entry point in `agentrl.measures`, or by its reference.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agentrl.bench.estimates import Estimate, ValuesByTask, mean_over_trials
from agentrl.bench.statistics.families import Families, families_of
from agentrl.registry import Registry
from agentrl.trajectory import Trajectory

MEASURES = Registry(
    "measure",
    "agentrl.measures",
    {
        "success": "agentrl.bench.measures.success:Success",
        "success_of_attempted": "agentrl.bench.measures.success:SuccessOfAttempted",
        "reward": "agentrl.bench.measures.success:Reward",
        "component": "agentrl.bench.measures.success:Component",
        "pass_at": "agentrl.bench.measures.success:PassAt",
        "pass_hat": "agentrl.bench.measures.success:PassHat",
        "tool_calls": "agentrl.bench.measures.tools:ToolCalls",
        "tool_errors": "agentrl.bench.measures.tools:ToolErrors",
        "malformed_calls": "agentrl.bench.measures.tools:MalformedCalls",
        "turns": "agentrl.bench.measures.effort:Turns",
        "completion_tokens": "agentrl.bench.measures.effort:CompletionTokens",
        "prompt_tokens": "agentrl.bench.measures.effort:PromptTokens",
        "cached_tokens": "agentrl.bench.measures.effort:CachedTokens",
        "reasoning_tokens": "agentrl.bench.measures.effort:ReasoningTokens",
        "latency_s": "agentrl.bench.measures.effort:LatencySeconds",
        "tokens_per_success": "agentrl.bench.measures.effort:TokensPerSuccess",
        "policy_s": "agentrl.bench.measures.effort:PolicySeconds",
        "env_s": "agentrl.bench.measures.effort:EnvSeconds",
        "rmse": "agentrl.bench.measures.predictions:RMSE",
        "mae": "agentrl.bench.measures.predictions:MAE",
        "r2": "agentrl.bench.measures.predictions:R2",
        "spearman": "agentrl.bench.measures.predictions:Spearman",
        "crps": "agentrl.bench.measures.predictions:CRPS",
        "coverage": "agentrl.bench.measures.predictions:Coverage",
        "interval_width": "agentrl.bench.measures.predictions:IntervalWidth",
        "no_number": "agentrl.bench.measures.predictions:NoNumber",
        "truncated": "agentrl.bench.measures.endings:Truncated",
        "faults": "agentrl.bench.measures.endings:Faults",
        "ece": "agentrl.bench.measures.confidence:CalibrationError",
        "ece_equal_mass": "agentrl.bench.measures.confidence:CalibrationErrorEqualMass",
        "ece_scaled": "agentrl.bench.measures.confidence:CalibrationErrorScaled",
        "brier": "agentrl.bench.measures.confidence:Brier",
        "auroc": "agentrl.bench.measures.confidence:Auroc",
        "confidence": "agentrl.bench.measures.confidence:MeanConfidence",
        "most_confident": "agentrl.bench.measures.confidence:MostConfident",
    },
)
SHARE = "share"
"""The unit of numbers in [0, 1]; they are shown as percentages."""


class Measure(ABC):
    """One statistic over episodes: a pure function. Its subclasses are frozen dataclasses; their fields are parameters.

    A measure with a field is a family, written with the field's value: `pass_at:4` is `PassAt(4)`.

    Attributes:
        reads_signals: whether episodes have to say how sure the model was of each token (`Action.signals`).
    """

    reads_signals: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What the measure is called in tables and records, with its parameter: `pass_at:4`."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """The unit of the mean and its interval: `share`, `tokens`, `s`, ..."""

    @abstractmethod
    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        """The statistic and its 95% interval.

        Args:
            episodes: final ones of one policy, discarded ones (faults) included; there may be none.
        """

    def value(self, episodes: Sequence[Trajectory]) -> float:
        """The statistic alone, nan where it is not known. Override it where the interval takes long to compute."""
        return self(episodes).mean


class PerEpisode(Measure):
    """The mean over scored episodes of one number per episode, with an interval clustered by task."""

    @abstractmethod
    def of(self, episode: Trajectory) -> float:
        """The number of one scored episode; nan where it is not known: the episode is then left out."""

    def estimate(self, values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
        """The mean of the values and its interval; overridden where another interval suits the values better."""
        return mean_over_trials(values_by_task, families=families)

    def values_by_task(self, episodes: Sequence[Trajectory]) -> dict[str, list[float]]:
        """Task id -> the known numbers of its scored episodes."""
        values = by_task(scored(episodes), self.of)
        return {task: [value for value in of_task if not math.isnan(value)] for task, of_task in values.items()}

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        values = self.values_by_task(episodes)
        return self.estimate(list(values.values()), families_of(list(values), task_families(episodes)))


@dataclass(frozen=True)
class Measured:
    """A measure's answer for one policy."""

    name: str
    unit: str
    estimate: Estimate

    def to_json(self) -> dict[str, Any]:
        """`{unit, mean, ci95, n}`."""
        return {"unit": self.unit, **self.estimate.to_json()}


def measured(measures: Sequence[Measure], episodes: Sequence[Trajectory]) -> dict[str, Measured]:
    """The answers of measures, by their names, in their order. Raises: TypeError if one is no Estimate."""
    answers = {}
    for measure in measures:
        estimate = measure(episodes)
        if not isinstance(estimate, Estimate):
            raise TypeError(f"measure {measure.name!r} must return an Estimate, got {estimate!r}")
        answers[measure.name] = Measured(measure.name, measure.unit, estimate)
    return answers


def task_families(episodes: Sequence[Trajectory]) -> dict[str, str]:
    """Task id -> family, of the tasks that name one."""
    return {episode.task.id: episode.task.family for episode in episodes if episode.task.family}


def scored(episodes: Sequence[Trajectory]) -> list[Trajectory]:
    """The episodes that count: those that did not end in a fault."""
    return [episode for episode in episodes if episode.status != "fault"]


def by_task(episodes: Sequence[Trajectory], value: Callable[[Trajectory], float]) -> dict[str, list[float]]:
    """Task id -> the values of its episodes, tasks in order of first appearance."""
    values: dict[str, list[float]] = {}
    for episode in episodes:
        values.setdefault(episode.task.id, []).append(value(episode))
    return values


def sums_by_task(episodes: Sequence[Trajectory], *values: Callable[[Trajectory], float]) -> NDArray[np.float64]:
    """(C, K) sums of K numbers over the episodes of each task, tasks in order of first appearance."""
    rows: dict[str, int] = {}
    labels = np.array([rows.setdefault(episode.task.id, len(rows)) for episode in episodes], dtype=np.int64)
    columns = (np.fromiter(map(value, episodes), dtype=np.float64, count=len(episodes)) for value in values)
    return np.stack([np.bincount(labels, weights=column, minlength=len(rows)) for column in columns], axis=1)
