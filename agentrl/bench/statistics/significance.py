"""Whether a difference is more than chance, and how many tasks would tell: pure numpy, each formula with its source.

Tasks are the unit, as in `agentrl.bench.estimates`: every function takes the values of each task's trials, the same
tasks in the same order for both agents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentrl.bench.estimates import ValuesByTask, task_means
from agentrl.bench.statistics.families import Clusters, Families

RESAMPLES = 9_999
_TIES = 1e-12
_AT_ONCE = 500_000
"""Signs that are drawn together; the draws do not depend on it."""


def paired_permutation_test(
    first: ValuesByTask, second: ValuesByTask, *, families: Families = (), resamples: int = RESAMPLES, seed: int = 0
) -> PValue:
    """Two-sided p-values of no difference: the agents of each task, or of each family, may be swapped.

    The statistic is the mean over tasks of the difference of their means. All swaps are counted where there are no more
    of them than `resamples`; else that many are drawn, and the observed one counts as one more.

    Returns: 1 for no tasks.
    Source: Fisher 1935, The Design of Experiments, section 21; with draws Phipson and Smyth 2010, Stat. Appl. Genet.
        Mol. Biol. 9(1), eq. 2; mid-p Lancaster 1961, JASA 56(294).
    """
    differences = Clusters.of(first, families).sums(_differences(first, second))
    size = float(np.max(np.abs(differences), initial=0.0))
    differences = differences[abs(differences) > _TIES * size]  # a swap of two equal results changes nothing
    if len(differences) == 0:
        return PValue(1.0, 1.0)
    observed, slack = abs(differences.sum()), _TIES * float(np.abs(differences).sum())
    if 2 ** len(differences) <= resamples:
        signs = np.array(list(product((1.0, -1.0), repeat=len(differences))))
        return _p_value(abs(signs @ differences), observed, slack)
    rng = np.random.default_rng(seed)
    drawn, rows = [np.array([observed])], max(1, _AT_ONCE // len(differences))
    for start in range(0, resamples, rows):
        signs = rng.integers(2, size=(min(rows, resamples - start), len(differences))) * 2.0 - 1.0
        drawn.append(abs(signs @ differences))
    return _p_value(np.concatenate(drawn), observed, slack)


class PValue(NamedTuple):
    """Two p-values of one test.

    Attributes:
        exact: the chance of a result as large as the observed one, or larger: never calls equal agents different in
            more cases than the level says, and in fewer where tasks are few.
        mid: the same, with results as large as the observed one counted half: as often as the level says, or less
            where tasks are few.
    """

    exact: float
    mid: float


def _p_value(statistics: NDArray[np.float64], observed: float, slack: float) -> PValue:
    larger = float(np.mean(statistics > observed + slack))
    equal = float(np.mean(abs(statistics - observed) <= slack))
    return PValue(larger + equal, larger + equal / 2)


def mcnemar_test(first: ValuesByTask, second: ValuesByTask) -> float | None:
    """Exact two-sided p-value for outcomes of 0 and 1 with one trial of each task; None for others.

    Source: McNemar 1947, Psychometrika 12(2); the exact form is a binomial test of the tasks on which the two differ.
    """
    pairs = list(zip(first, second, strict=True))
    if any(len(values) != 1 or values[0] not in (0, 1) for pair in pairs for values in pair):
        return None
    only_first = sum(one[0] > other[0] for one, other in pairs)
    differ = sum(one[0] != other[0] for one, other in pairs)
    tail, ways = 0, 1
    for k in range(min(only_first, differ - only_first) + 1):
        tail, ways = tail + ways, ways * (differ - k) // (k + 1)  # ways: differ choose k, from the one before
    return float(min(1.0, 2 * tail / 2**differ))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, made larger so that the chance of any false one stays below the level.

    Source: Holm 1979, Scand. J. Statistics 6(2).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def noise_floor(values_by_task: ValuesByTask, level: float = 0.95) -> float:
    """Within what distance two runs of one and the same agent on these tasks lie, in 95 of 100 cases.

    It follows from how much the trials of a task differ, so it needs two trials of some task; nan without.

    Source: the variance of a mean over trials is that within tasks, Miller 2024, arXiv:2411.00640, section 3.1; twice
        for a difference.
    """
    own = [values for values in values_by_task if len(values)]
    within = _within(own)
    if not math.isfinite(within):
        return math.nan
    variance = within * sum(1 / len(values) for values in own) / len(own) ** 2
    return _z(level) * math.sqrt(2 * variance)


def tasks_to_resolve(
    first: ValuesByTask,
    second: ValuesByTask,
    difference: float,
    *,
    families: Families = (),
    trials: int | None = None,
    power: float = 0.8,
    level: float = 0.95,
) -> int | None:
    """How many tasks a paired comparison of such agents needs to find a difference.

    Args:
        difference: to be found, above 0.
        families: of the tasks; as many tasks of a family are assumed.
        trials: of each task; None is as many as there were.
        power: chance to find it.
        level: of the interval that must exclude 0.
    Returns: the number, or None where it cannot be known: fewer than two tasks or families, no spread, or another
        number of trials while no task has two.
    Source: Miller 2024, arXiv:2411.00640, section 5 (sample size for paired questions).
    """
    if difference <= 0:
        raise ValueError(f"difference must be above 0, got {difference}")
    differences, clusters = _differences(first, second), Clusters.of(first, families)
    if clusters.count < 2:
        return None
    variance = len(differences) * clusters.variance_of_mean(differences - differences.mean())
    if trials is not None:
        for values in (first, second):
            within, now = _within(values), float(np.mean([1 / len(v) for v in values]))
            if not math.isfinite(within):
                return None
            variance += within * (1 / trials - now)
    if variance <= 0:
        return None
    return math.ceil((_z(level) + NormalDist().inv_cdf(power)) ** 2 * variance / difference**2)


def _differences(first: ValuesByTask, second: ValuesByTask) -> NDArray[np.float64]:
    if len(first) != len(second) or not all(map(len, (*first, *second))):
        raise ValueError("both need the same tasks, each with a trial")
    return task_means(first) - task_means(second)


def _within(values_by_task: ValuesByTask) -> float:
    """The variance of a task's trials, pooled over the tasks that have two or more; nan without."""
    several = [values for values in values_by_task if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return math.nan
    return sum(float(np.var(values, ddof=1)) * (len(values) - 1) for values in several) / freedom


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)
