"""Families: tasks that resemble each other, such as variants of one template. Owns sums over them.

Families, not tasks, are the independent units where tasks name theirs; every task still has the same weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Families = Sequence[str]
"""The family of each task, `""` for a task of its own; empty where no task names one."""


def families_of(tasks: Sequence[str], by_task: Mapping[str, str]) -> Families:
    """The families of tasks in their order; empty where none of them has one."""
    found = [by_task.get(task, "") for task in tasks]
    return found if any(found) else ()


@dataclass(frozen=True)
class Clusters:
    """Which tasks belong together.

    Attributes:
        labels: (C,) number of each task's family.
        count: families; a task without one is a family of its own.
    """

    labels: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, values_by_task: Sequence[Sequence[float]], families: Families = ()) -> Clusters:
        """Those of the tasks that have a trial. Raises: ValueError where families and tasks differ in number."""
        if not families:
            count = sum(len(values) > 0 for values in values_by_task)
            return cls(np.arange(count), count)
        if len(families) != len(values_by_task):
            raise ValueError(f"needs a family for each of {len(values_by_task)} tasks, got {len(families)}")
        numbers: dict[object, int] = {}
        kept = [(index, name) for index, name in enumerate(families) if len(values_by_task[index])]
        labels = [numbers.setdefault(name or index, len(numbers)) for index, name in kept]
        return cls(np.array(labels, dtype=np.int64), len(numbers))

    def sums(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """(F,) sums of the tasks' numbers, by family."""
        return np.bincount(self.labels, weights=numbers, minlength=self.count).astype(np.float64)

    def squares(self, deviations: NDArray[np.float64]) -> float:
        """The sum of the families' squared sums; that of single tasks if it is more.

        Tasks of a family that balance each other would make the first one small by chance.
        """
        own = float(np.sum(deviations**2))
        return own if self.count == len(deviations) else max(float(np.sum(self.sums(deviations) ** 2)), own)

    def variance_of_mean(self, deviations: NDArray[np.float64]) -> float:
        """Of a mean over tasks, from their deviations from it; nan for one family.

        Source: Miller 2024, arXiv:2411.00640, section 2.2 (clustered standard errors), times F / (F - 1).
        """
        if self.count < 2:
            return float("nan")
        return self.squares(deviations) / len(deviations) ** 2 * self.count / (self.count - 1)
