"""The figures of the credit meter: scale, error, rank correlation and cost of an estimator, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agentrl.bench.credit_meter.points import Point
from agentrl.learning.credit.base import Floats

_ROUNDING = 1e-20  # the square of what rounding makes of an advantage of 0


@dataclass(frozen=True)
class Figure:
    """A number and its standard error, by the jackknife over tasks; nan where it cannot be known."""

    value: float
    error: float

    def to_json(self) -> dict[str, float | None]:
        value, error = (x if math.isfinite(x) else None for x in (self.value, self.error))
        return {"value": value, "se": error}


@dataclass(frozen=True)
class Figures:
    """How near an estimator comes to the true advantages of turns.

    Attributes:
        name: of the estimator.
        scale: the slope of the estimates against the true advantages, after the mean of the estimates in each state is
            taken off, which no gradient sees. 1 is unbiased; a constant factor other than 1 changes the step alone.
        bias: the rest of the bias, when the scale is divided out, as a share of the true advantages' root mean square.
        noise: the standard deviation of the estimates of one action, over the scale, as such a share.
        error: mean squared difference of one estimate, over the scale, from the true advantage; as a share of the mean
            square of the true advantages. It holds the bias, the noise and what the estimate says of the state.
        rank: Spearman's correlation of one estimate with the true advantage.
        tokens: sampled tokens for each judged turn.
        points: turns that were measured.
    """

    name: str
    scale: Figure
    bias: Figure
    noise: Figure
    error: Figure
    rank: Figure
    tokens: float
    points: int

    @property
    def is_unbiased(self) -> bool:
        """Whether the scale is within two standard errors of 1."""
        return abs(self.scale.value - 1) <= 2 * self.scale.error + 1e-9

    @property
    def cost(self) -> float:
        """Error times tokens: what a given precision of the mean of many turns costs in sampled tokens."""
        return self.error.value * self.tokens

    def to_json(self) -> dict[str, Any]:
        figures = {k: getattr(self, k).to_json() for k in ("scale", "bias", "noise", "error", "rank")}
        cost = self.cost if math.isfinite(self.cost) else None
        unbiased = None if math.isnan(self.scale.value) else self.is_unbiased
        plain = {"tokens_per_turn": self.tokens, "cost": cost, "points": self.points, "unbiased": unbiased}
        return {"name": self.name, **figures, **plain}


def figures_of(name: str, points: Sequence[Point]) -> Figures:
    """The figures of an estimator.

    Args: points: at least one.
    """
    made = _Arrays(
        np.array([p.task for p in points]),
        np.array([p.truth for p in points]),
        np.array([p.estimates for p in points]),
        np.array([p.of_state for p in points]),
    )
    measured = {key: _jackknife(made, measure) for key, measure in _MEASURES.items()}
    return Figures(name, **measured, tokens=float(np.mean([p.tokens for p in points])), points=len(points))


@dataclass(frozen=True)
class _Arrays:
    """Points as arrays: (P,) tasks, (P, 2 folds) truth, (P, 2, draws) estimates and those of the state."""

    task: npt.NDArray[np.int_]
    truth: Floats
    estimates: Floats
    of_state: Floats

    def without(self, task: int) -> _Arrays:
        kept = self.task != task
        return _Arrays(self.task[kept], self.truth[kept], self.estimates[kept], self.of_state[kept])

    @property
    def power(self) -> float:
        """The mean square of the true advantages: two independent measurements carry no noise of their own into it."""
        power = float(np.mean(self.truth[:, 0] * self.truth[:, 1]))
        return power if power > _ROUNDING else math.nan

    @property
    def of_action(self) -> Floats:
        """(P, 2) the mean estimate of the action, less that of actions drawn anew in its state."""
        found: Floats = self.estimates.mean(2) - self.of_state.mean(2)
        return found

    @property
    def divisor(self) -> float:
        """The scale; an estimator that points the other way has no error worth a number."""
        scale = _scale(self)
        return scale if scale > 0 else math.nan


def _scale(points: _Arrays) -> float:
    return float(np.mean(points.of_action.mean(1) * points.truth.mean(1))) / points.power


def _bias(points: _Arrays) -> float:
    off = points.of_action / points.divisor - points.truth
    return math.sqrt(max(0.0, float(np.mean(off[:, 0] * off[:, 1]))) / points.power)


def _noise(points: _Arrays) -> float:
    variance = float(np.mean(points.estimates.var(axis=2, ddof=1)))
    return math.sqrt(variance / points.power) / points.divisor


def _error(points: _Arrays) -> float:
    square = np.mean((points.estimates / points.divisor - points.truth.mean(1)[:, None, None]) ** 2)
    of_truth = np.mean((points.truth[:, 0] - points.truth[:, 1]) ** 2) / 4  # the variance of the mean of two
    return max(0.0, float(square - of_truth)) / points.power


def _rank(points: _Arrays) -> float:
    truth, estimates = points.truth.mean(1), points.estimates.reshape(len(points.truth), -1)
    return float(np.mean([spearman(estimates[:, draw], truth) for draw in range(estimates.shape[1])]))


_MEASURES: dict[str, Callable[[_Arrays], float]] = {
    "scale": _scale,
    "bias": _bias,
    "noise": _noise,
    "error": _error,
    "rank": _rank,
}


def spearman(one: Floats, other: Floats) -> float:
    """The rank correlation of two (n,) arrays; equal numbers share their mean rank. nan where one is constant."""
    ranks = [_ranks(one), _ranks(other)]
    spreads = [r.std() for r in ranks]
    if not all(spreads):
        return math.nan
    return float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())) / (spreads[0] * spreads[1]))


def _ranks(values: Floats) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places], np.float64)


def _jackknife(points: _Arrays, measure: Callable[[_Arrays], float]) -> Figure:
    """A measure, and its standard error from leaving out one task at a time.

    Source: Efron and Stein 1981, eq. 1.5.
    """
    tasks = np.unique(points.task)
    value, n = measure(points), len(tasks)
    if n < 2:
        return Figure(value, math.nan)
    left = np.array([measure(points.without(int(task))) for task in tasks])
    return Figure(value, math.sqrt((n - 1) / n * float(np.sum((left - left.mean()) ** 2))))
