"""The number that an episode was to predict, and the one that it predicted. Owns their names in `info`.

An environment whose answer is a number puts them into `info` at the end of an episode, and `target` and `worst` into
the data of its tasks, so that an episode which ended in an error of the model's counts too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
        value: what the model said; what the environment counts instead where it said no number.
        scale: standard deviation of the training numbers, the unit of rewards.
    """

    target: float
    value: float
    scale: float = 1.0


def prediction_of(episode: Trajectory) -> Prediction | None:
    """The prediction of an episode; None if its environment asks for no number."""
    info, data = episode.info, episode.task.data
    if TARGET in info and PREDICTION in info:
        return Prediction(float(info[TARGET]), float(info[PREDICTION]), float(info.get(SCALE, 1.0)))
    if TARGET in data and WORST in data:
        return Prediction(float(data[TARGET]), float(data[WORST]))
    return None


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
    return error - (float(mean_distances(values).mean()) / 2 if count > 1 else 0.0)


def mean_distances(samples: Sequence[float] | Floats) -> Floats:
    """(N,) the mean distance of each sample from the others; 0 for a single one."""
    values = np.asarray(samples, np.float64)
    distances: Floats = np.abs(values[:, None] - values).sum(1) / max(len(values) - 1, 1)
    return distances
