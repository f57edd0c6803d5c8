"""How a mixture weighs its parts: what is remembered of each part's groups, and weights as a function of that.

A weighting is added from outside as a frozen dataclass: an entry point in the group `agentrl.weightings`, or a
reference `module:Class`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentrl.config import Count, Fraction, Positive
from agentrl.registry import Registry
from agentrl.rollout.sources.base import State

Floats = npt.NDArray[np.float64]

WEIGHTINGS = Registry(
    "weighting",
    "agentrl.weightings",
    {
        "fixed": "agentrl.rollout.sources.mixed.weighting:Fixed",
        "task_counts": "agentrl.rollout.sources.mixed.weighting:TaskCounts",
        "difficulty": "agentrl.rollout.sources.mixed.weighting:Difficulty",
        "progress": "agentrl.rollout.sources.mixed.weighting:Progress",
    },
)


@dataclass(frozen=True)
class Part:
    """What a weighting knows of one environment.

    Attributes:
        weight: from the file.
        num_tasks: in its split to train on.
        rates: pass rates of its groups, the oldest first.
    """

    weight: float
    num_tasks: int
    rates: Sequence[float] = ()


class Weighting(ABC):
    """Relative weights of the parts of a mixture: a pure function of what is known of each.

    Attributes:
        remembers: newest pass rates of a part that it reads; 0 reads none.
    """

    @property
    def remembers(self) -> int:
        return 0

    @abstractmethod
    def __call__(self, parts: Sequence[Part]) -> Floats:
        """Args: parts: at least one. Returns: (parts,) not negative, with a positive sum."""


@dataclass(frozen=True)
class Fixed(Weighting):
    """The weights of the file."""

    def __call__(self, parts: Sequence[Part]) -> Floats:
        return np.array([part.weight for part in parts])


@dataclass(frozen=True)
class TaskCounts(Weighting):
    """w_k n_k^(1/tau), where n_k is the number of tasks: 1 is in proportion to it, a large tau makes all parts equal.

    Source: Arivazhagan et al. 2019, arXiv:1907.05019, section 4.1 (temperature sampling).

    Attributes:
        tau: the temperature.
    """

    tau: Positive = 2.0

    def __call__(self, parts: Sequence[Part]) -> Floats:
        return np.array([part.weight * part.num_tasks ** (1 / self.tau) for part in parts])


@dataclass(frozen=True)
class Difficulty(Weighting):
    """w_k times the mean of p (1 - p) over the newest groups of a part, where p is the pass rate of a group.

    p (1 - p) is the variance of a binary reward, with which the signal of a group-relative estimator grows: a part
    whose tasks are all solved, or all failed, teaches nothing. A part of which nothing is remembered yet has the
    greatest value, 1/4.

    Source: the weighting of tasks by p (1 - p), Foster and Foerster 2025, arXiv:2502.12272 (learnability), here as a
    mean over an environment's groups.

    Attributes:
        groups: how many are remembered.
        explore: share of the groups that are drawn by the weights of the file, so that no part is left for good.
    """

    groups: Count = 32
    explore: Fraction = 0.2

    @property
    def remembers(self) -> int:
        return self.groups

    def __call__(self, parts: Sequence[Part]) -> Floats:
        found = [np.mean([p * (1 - p) for p in part.rates]) if part.rates else 0.25 for part in parts]
        return _explored(parts, np.array(found, np.float64), self.explore)


@dataclass(frozen=True)
class Progress(Weighting):
    """w_k times |mean pass rate of the newer half of the remembered groups - that of the older half|.

    Where a pass rate changes, up or down, something is learnt or forgotten. A part with fewer than two groups has the
    greatest value, 1.

    Source: Matiisen et al. 2017, arXiv:1707.00183, section 3 (the window algorithm, absolute values).

    Attributes:
        groups: how many are remembered.
        explore: as of `Difficulty`.
    """

    groups: Count = 32
    explore: Fraction = 0.2

    @property
    def remembers(self) -> int:
        return self.groups

    def __call__(self, parts: Sequence[Part]) -> Floats:
        return _explored(parts, np.array([_slope(part.rates) for part in parts]), self.explore)


def _slope(rates: Sequence[float]) -> float:
    if len(rates) < 2:
        return 1.0
    half = len(rates) // 2
    return abs(float(np.mean(rates[half:])) - float(np.mean(rates[:half])))


def _explored(parts: Sequence[Part], found: Floats, explore: float) -> Floats:
    """Shares by w_k found_k, mixed with the shares of the file; those of the file alone where all found are 0."""
    plain = np.array([part.weight for part in parts])
    plain = plain / plain.sum()
    chosen = plain * found
    total = chosen.sum()
    shares: Floats = plain if total == 0 else explore * plain + (1 - explore) * chosen / total
    return shares


class Memory:
    """The newest pass rates of each part, in the order of the groups' numbers, whichever ended first.

    Args:
        parts: weight and number of tasks of each.
        weighting: what reads them.
    """

    def __init__(self, parts: Sequence[Part], weighting: Weighting) -> None:
        self._parts, self._weighting = list(parts), weighting
        self._rates: list[list[float]] = [[] for _ in parts]
        self._ended: dict[int, tuple[int, float | None]] = {}

    def shares(self) -> Floats:
        """(parts,) the probability of each, from the groups that have ended so far."""
        self._remember()
        pairs = zip(self._parts, self._rates, strict=True)
        found = self._weighting([Part(part.weight, part.num_tasks, tuple(rates)) for part, rates in pairs])
        shares: Floats = found / found.sum()
        return shares

    def ended(self, number: int, part: int, rate: float | None) -> None:
        """Note the pass rate of a group; None if no episode counts."""
        self._ended[number] = part, rate

    def _remember(self) -> None:
        most = self._weighting.remembers
        for number in sorted(self._ended):
            part, rate = self._ended.pop(number)
            if most and rate is not None:
                self._rates[part] = [*self._rates[part], rate][-most:]

    def state_dict(self) -> State:
        """After the groups that have ended."""
        self._remember()
        return {"rates": [list(rates) for rates in self._rates]}

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict`."""
        self._rates, self._ended = [list(rates) for rates in state["rates"]], {}
