"""How well confidence fits correctness: calibration error, Brier score, AUROC, reliability, temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]
_CLOSE = 1e-12  # confidences of 0 and 1 have no finite logit


@dataclass(frozen=True)
class Bin:
    """A bar of a reliability diagram.

    Attributes:
        low, high: its confidences are above `low` and at most `high`; the first bin holds `low` too.
        count: answers in it.
        confidence, accuracy: their means; nan where it is empty.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidences: Numbers, correct: Numbers, *, bins: int = 10, equal_mass: bool = False) -> list[Bin]:
    """The bars of a reliability diagram.

    Args:
        confidences: (N,) in [0, 1]; N is at least 1.
        correct: (N,) 0 or 1.
        bins: number of bars.
        equal_mass: bounds at the quantiles of the confidences, so that each bin has about N / bins of them; bins of
            equal width otherwise.
    Source: Naeini et al. 2015 (equal width), Nguyen and O'Connor 2015 (equal mass).
    """
    c, y = _checked(confidences, correct)
    shares = np.linspace(0.0, 1.0, bins + 1)
    bounds = np.quantile(c, shares) if equal_mass else shares
    place = np.searchsorted(bounds[1:-1], c)
    found = []
    for number, (low, high) in enumerate(pairwise(bounds)):
        own = place == number
        count = int(own.sum())
        means = (float(c[own].mean()), float(y[own].mean())) if count else (math.nan, math.nan)
        found.append(Bin(float(low), float(high), count, *means))
    return found


def calibration_error(confidences: Numbers, correct: Numbers, *, bins: int = 10, equal_mass: bool = False) -> float:
    """Expected calibration error: the mean over answers of their bin's |accuracy - confidence|, in [0, 1].

    Args: as for `reliability`.
    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    found = reliability(confidences, correct, bins=bins, equal_mass=equal_mass)
    total = sum(one.count for one in found)
    return math.fsum(one.count * abs(one.accuracy - one.confidence) for one in found if one.count) / total


def brier(confidences: Numbers, correct: Numbers) -> float:
    """The mean squared difference of confidence and correctness. Source: Brier 1950.

    Args: (N,) each.
    """
    c, y = _checked(confidences, correct)
    return float(np.mean((c - y) ** 2))


def auroc(confidences: Numbers, correct: Numbers) -> float:
    """The chance that a right answer has a higher confidence than a wrong one; ties count one half.

    Args: (N,) each.
    Returns: nan if all answers are right, or all are wrong.
    """
    c, y = _checked(confidences, correct)
    right = float(y.sum())
    wrong = len(y) - right
    if not right or not wrong:
        return math.nan
    _, place, counts = np.unique(c, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal confidences
    return float((ranks[place][y == 1].sum() - right * (right + 1) / 2) / (right * wrong))


def log_loss(confidences: Numbers, correct: Numbers) -> float:
    """The mean of -log of the probability given to what was the case, in nats.

    Args: (N,) each; confidences of 0 and 1 are moved inwards by 1e-12.
    """
    c, y = _checked(confidences, correct)
    c = np.clip(c, _CLOSE, 1 - _CLOSE)
    return float(-np.mean(y * np.log(c) + (1 - y) * np.log1p(-c)))


def scaled(confidences: Numbers, temperature: float) -> NDArray[np.float64]:
    """(N,) sigmoid(logit(c) / temperature).

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2, for two classes: right and wrong.
    """
    c = np.clip(np.asarray(confidences, np.float64), _CLOSE, 1 - _CLOSE)
    logits: NDArray[np.float64] = (np.log(c) - np.log1p(-c)) / temperature
    return _sigmoid(logits)


def fit_temperature(confidences: Numbers, correct: Numbers) -> float:
    """The temperature of least log loss, between 0.01 and 100.

    The loss is convex in 1 / temperature, so its slope has one change of sign, which is found by bisection.

    Args: (N,) each, of answers other than those that are to be scaled.
    """
    c, y = _checked(confidences, correct)
    c = np.clip(c, _CLOSE, 1 - _CLOSE)
    logits = np.log(c) - np.log1p(-c)
    low, high = 0.01, 100.0  # of 1 / temperature
    for _ in range(200):
        middle = math.sqrt(low * high)
        slope = float(np.mean((_sigmoid(middle * logits) - y) * logits))
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 1.0 / math.sqrt(low * high)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * logits))  # 1 / (1 + exp(-x)) without overflow
    return found


def _checked(confidences: Numbers, correct: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    c, y = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    if c.ndim != 1 or c.shape != y.shape or not len(c):
        raise ValueError(f"confidences and correct must be two rows of one length, got shapes {c.shape} and {y.shape}")
    if not ((c >= 0) & (c <= 1)).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("confidences must be in [0, 1], and correct must be 0 or 1")
    return c, y
