"""Intervals of any statistic over tasks and seeds, by leaving out groups of tasks. Owns no statistic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from agentrl.bench.estimates import Estimate, t_quantile

T = TypeVar("T")
ByTask = Mapping[str, Sequence[T]]
_GROUPS = 20
_ROUNDING = 1e-12


def over_seeds(
    seeds: Sequence[ByTask[T]],
    statistic: Callable[[Sequence[T]], float],
    *,
    minus: Sequence[ByTask[T]] | None = None,
    level: float = 0.95,
) -> Estimate:
    """A statistic of each seed's episodes, averaged over seeds, with an interval over tasks and seeds.

    The variance between tasks is that of a delete-a-group jackknife (20 groups, or one for each task if there are
    fewer). The variance between seeds is added, and that of single cells, which both contain, is subtracted; the sum is
    never less than either. One seed says nothing about seeds: then the interval is over tasks alone.

    Args:
        seeds: of each seed the episodes by task. Tasks that every seed has count.
        statistic: of the episodes of one seed; nan where it is not known.
        minus: subtract the statistic of these, seed by seed and on the same tasks.
    Returns: with an infinite interval where there are fewer than two tasks, where a statistic is not known, and where
        nothing varies, which says nothing about the spread.
    Source: Kott 2001, J. Official Statistics 17(4) (delete-a-group jackknife); Cameron, Gelbach and Miller 2011, J.
        Bus. Econ. Stat. 29(2), eq. 2.11 (two-way clustering).
    """
    every = [*seeds, *(minus or ())]
    shared = [task for task in every[0] if all(len(of_seed.get(task, ())) for of_seed in every)] if every else []
    if minus is not None and len(minus) != len(seeds):
        raise ValueError(f"a difference needs the same seeds on both sides, got {len(seeds)} and {len(minus)}")
    if not shared:
        return Estimate(math.nan, -math.inf, math.inf, 0)

    def of(tasks: Sequence[str]) -> np.ndarray:
        """(S,) the statistic of each seed, or its difference."""

        def side(given: Sequence[ByTask[T]]) -> np.ndarray:
            return np.array([statistic([x for task in tasks for x in of_seed[task]]) for of_seed in given])

        return side(seeds) if minus is None else side(seeds) - side(minus)

    whole_S = of(shared)
    count = min(_GROUPS, len(shared))
    if count < 2 or not np.isfinite(whole_S).all():
        return Estimate(float(whole_S.mean()), -math.inf, math.inf, len(shared))
    without_GS = np.array([of([t for i, t in enumerate(shared) if i % count != group]) for group in range(count)])
    half = _half(whole_S, without_GS, level)
    mean = float(whole_S.mean())
    return Estimate(mean, mean - half, mean + half, len(shared))


def _half(whole_S: np.ndarray, without_GS: np.ndarray, level: float) -> float:
    """Half the interval; infinite where a group's absence leaves the statistic unknown."""
    groups, seeds = without_GS.shape
    if not np.isfinite(without_GS).all():
        return math.inf
    of_tasks = _jackknife_variance(without_GS.mean(axis=1))
    of_seeds = of_cells = 0.0
    if seeds > 1:
        of_seeds = float(np.var(whole_S, ddof=1)) / seeds
        within = float(np.mean([_jackknife_variance(without_GS[:, seed]) for seed in range(seeds)]))
        of_cells = max(0.0, (within - of_tasks) / (seeds - 1))
    variance = max(of_tasks + of_seeds - of_cells, of_tasks, of_seeds)
    if variance <= (_ROUNDING * max(1.0, float(np.abs(whole_S).max()))) ** 2:
        return math.inf
    freedom = of_tasks**2 / (groups - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    return t_quantile(max(1, int(variance**2 / freedom)), level) * math.sqrt(variance)


def _jackknife_variance(without_G: np.ndarray) -> float:
    groups = len(without_G)
    return float((groups - 1) / groups * np.sum((without_G - without_G.mean()) ** 2))
