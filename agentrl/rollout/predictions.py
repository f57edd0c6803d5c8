"""The number that an episode was to predict, and the one that it predicted. Owns their names in `info`.

An environment whose answer is a number puts them into `info` at the end of an episode, and `target` and `worst` into
the data of its tasks, so that an episode which ended in an error of the model's counts too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agentrl.trajectory import Trajectory

Floats = npt.NDArray[np.float64]
TARGET, PREDICTION, SCALE, WORST, IS_NUMBER = "target", "prediction", "scale", "worst", "is_number"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted number.

    Attributes:
        target: what it should be.
        value: what the model said; what the environment counts instead where it said no number, and infinity where
            that is not known: then an answer that is no number is no way out of a bad score.
        scale: standard deviation of the training numbers, the unit of rewards.
    """

    target: float
    value: float
    scale: float = 1.0


def prediction_of(episode: Trajectory) -> Prediction | None:
    """The prediction of an episode; None if its environment asks for no number. Nothing in `info` raises an error.

    A prediction that is no finite number, such as the model's own words, counts as the task's `worst`.
    """
    info, data = episode.info, episode.task.data
    target = finite_number(info.get(TARGET)) if PREDICTION in info else None
    if target is not None:
        value, worst = finite_number(info[PREDICTION]), finite_number(data.get(WORST))
        found = value if value is not None else math.inf if worst is None else worst
        return Prediction(target, found, finite_number(info.get(SCALE)) or 1.0)
    if TARGET in data and WORST in data:
        return Prediction(float(data[TARGET]), float(data[WORST]))
    return None


def finite_number(value: Any) -> float | None:
    """The value as a float; None if it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def crps(samples: Sequence[float] | Floats, target: float) -> float:
    """Continuous ranked probability score of a distribution, estimated without bias from samples of it.

    E|X - y| - E|X - X'| / 2, where pairs are of different samples; one sample gives its absolute error.
    Source: Gneiting and Raftery 2007, JASA 102(477), eq. 21; different samples: Ferro 2014, QJRMS 140(683) (fair CRPS).
    """
    values = np.sort(np.asarray(samples, np.float64))
    count = len(values)
    if not count:
        return math.nan
    error = float(np.abs(values - target).mean())
    if math.isinf(error):  # a sample that is no number; its distance from another one is not known
        return math.inf
    return error - (float(mean_distances(values).mean()) / 2 if count > 1 else 0.0)


def mean_distances(samples: Sequence[float] | Floats) -> Floats:
    """(N,) the mean distance of each sample from the others; 0 for a single one."""
    values = np.asarray(samples, np.float64)
    distances: Floats = np.abs(values[:, None] - values).sum(1) / max(len(values) - 1, 1)
    return distances
