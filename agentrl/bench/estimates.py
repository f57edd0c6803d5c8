"""Error bars of a benchmark: pure numpy, each formula with its source. Owns no records and no tables.

Trials of one task are correlated, so tasks are the unit: every function takes `values_by_task`, a sequence
with the values of each task's trials. Every task has the same weight, except in `mean_over_trials`, where every trial
has. Where tasks resemble each other their families are the unit: `families` names that of each task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentrl.bench.statistics.families import Clusters, Families, families_of

ValuesByTask = Sequence[Sequence[float]]
_LARGE_DF = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its confidence interval; an interval that cannot be computed is infinite."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def ci95(self) -> tuple[float, float]:
        return self.low, self.high

    def to_json(self) -> dict[str, Any]:
        """`{mean, ci95, n}`; a bound (or mean) that is not finite is null."""
        mean, low, high = (x if math.isfinite(x) else None for x in (self.mean, self.low, self.high))
        return {"mean": mean, "ci95": [low, high], "n": self.n}


def wilson_interval(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion from `n` independent trials; never empty, never outside [0, 1].

    Args:
        successes: number of successes; may be fractional where `n` is an effective sample size.
        n: number of trials, above 0.
    Source: Wilson 1927, JASA 22(158), eq. for the score interval.
    """
    if n <= 0 or not 0 <= successes <= n * (1 + 1e-12):
        raise ValueError(f"successes must be in [0, n] and n above 0, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = min(successes / n, 1.0)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0 and 1 the bound is exact; rounding in the formula would miss it by 1e-17.
    return (0.0 if p == 0 else centre - half), (1.0 if p == 1 else centre + half)


def t_cdf_two_sided(t: float, df: int) -> float:
    """P(|T| < t) of Student's distribution with an integer number of degrees of freedom.

    Source: Abramowitz and Stegun 1964, 26.7.3 (odd) and 26.7.4 (even): finite sums, exact.
    """
    theta = math.atan2(t, math.sqrt(df))
    sin, cos = math.sin(theta), math.cos(theta)
    term, total = (cos if df % 2 else 1.0), 0.0
    for k in range(1 if df % 2 else 0, df - 1, 2):
        total += term
        term *= cos * cos * (k + 1) / (k + 2)
    return 2 / math.pi * (theta + sin * total) if df % 2 else sin * total


@lru_cache(maxsize=256)
def t_quantile(df: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = level; beyond 2,000 degrees of freedom the expansion in 1/df.

    Source: Abramowitz and Stegun 1964, 26.7.3 to 26.7.5.
    """
    if df < 1:
        return math.inf
    z = NormalDist().inv_cdf(0.5 + level / 2)
    if df > _LARGE_DF:
        return z + (z**3 + z) / (4 * df)
    low, high = 0.0, z
    while t_cdf_two_sided(high, df) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf_two_sided(middle, df) < level else (low, middle)
    return (low + high) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of independent values (one per seed, or per task) with Student's t-interval.

    One value has an infinite interval, and so have values that are all equal: they say nothing about the spread.
    No value has a mean of nan.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0)
    mean = float(np.mean(values))
    if n == 1 or _all_equal(values):
        return Estimate(mean, -math.inf, math.inf, n)
    half = t_quantile(n - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def _all_equal(values: Sequence[float]) -> bool:
    """Whether values differ by rounding at most."""
    return float(np.ptp(values)) <= 1e-12 * float(np.max(np.abs(values)))


def task_means(values_by_task: ValuesByTask) -> NDArray[np.float64]:
    """(C,) mean over the trials of each task; tasks without a trial are left out."""
    return np.array([float(np.mean(values)) for values in values_by_task if len(values)], dtype=np.float64)


def clustered_standard_error(values_by_task: ValuesByTask, families: Families = ()) -> float:
    """Standard error of the mean over tasks; trials of a task, and tasks of a family, may be correlated in any way.

    With equally many trials everywhere this is the clustered standard error of the mean over trials
    times sqrt(C / (C - 1)), its small-sample correction for C tasks. One task, or family, gives nan.
    Source: Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, section 2.2.
    """
    means = task_means(values_by_task)
    deviations = means - (means.mean() if len(means) else 0.0)
    return math.sqrt(Clusters.of(values_by_task, families).variance_of_mean(deviations))


def clustered_mean(values_by_task: ValuesByTask, level: float = 0.95, *, families: Families = ()) -> Estimate:
    """Mean over tasks with a t-interval from the clustered standard error (F - 1 degrees of freedom, F families)."""
    means = task_means(values_by_task)
    if not families:
        return mean_interval(means.tolist(), level)
    if not len(means):
        return mean_interval([], level)
    clusters, mean = Clusters.of(values_by_task, families), float(means.mean())
    if clusters.count < 2 or _all_equal(means.tolist()):
        return Estimate(mean, -math.inf, math.inf, len(means))
    half = t_quantile(clusters.count - 1, level) * clustered_standard_error(values_by_task, families)
    return Estimate(mean, mean - half, mean + half, len(means))


def mean_over_trials(values_by_task: ValuesByTask, level: float = 0.95, *, families: Families = ()) -> Estimate:
    """Mean over trials, with a t-interval from the clustered standard error (F - 1 degrees of freedom, F families).

    Tasks with more trials weigh more than in `clustered_mean`; with equally many trials the two agree. Values that
    are all equal have an infinite interval.
    Source: Miller 2024, arXiv:2411.00640, section 2.2, times F / (F - 1).
    """
    tasks = [values for values in values_by_task if len(values)]
    n_tasks, n_trials = len(tasks), sum(map(len, tasks))
    if n_tasks == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0)
    clusters = Clusters.of(values_by_task, families)
    mean = sum(map(sum, tasks)) / n_trials
    if clusters.count == 1 or _all_equal([value for values in tasks for value in values]):
        return Estimate(mean, -math.inf, math.inf, n_tasks)
    deviations = np.array([sum(values) - len(values) * mean for values in tasks])
    error = math.sqrt(clusters.variance_of_mean(deviations)) * n_tasks / n_trials
    half = t_quantile(clusters.count - 1, level) * error
    return Estimate(mean, mean - half, mean + half, n_tasks)


def clustered_proportion(values_by_task: ValuesByTask, level: float = 0.95, *, families: Families = ()) -> Estimate:
    """Mean over tasks of values in [0, 1], with Wilson's interval at the effective sample size.

    The effective size n* = p (1 - p) / SE^2 lies between the families (tasks where there are none) and the trials
    (independent). To the squared deviations one family is added whose trials all succeed or all fail: few that happen
    to be alike would otherwise pass for many. n* is then made smaller by (z / t)^2, with Student's t of F - 1 degrees
    of freedom. So the interval stays inside [0, 1], never has width 0, and one family says nothing.
    Source: Korn and Graubard 1998, Survey Methodology 24(2) (effective sample size and its degrees of freedom);
    compared with others in Dean and Pagano 2015, J. Survey Statistics and Methodology 3(4). What is added is
    ours; `benchmarks/intervals.py` simulates the coverage.
    """
    means, clusters = _proportions(values_by_task), Clusters.of(values_by_task, families)
    if clusters.count < 2:
        return Estimate(float(means.mean()) if len(means) else math.nan, 0.0, 1.0, len(means))
    p = float(means.mean())
    effective = _effective_size(values_by_task, means, clusters, added=1)
    effective *= _students_share(clusters.count, level)
    return Estimate(p, *wilson_interval(p * effective, effective, level), len(means))


def _students_share(count: int, level: float) -> float:
    """(z / t)^2: how much smaller an effective size is, as the spread of `count` units is not known but estimated."""
    return (NormalDist().inv_cdf(0.5 + level / 2) / t_quantile(count - 1, level)) ** 2


def _proportions(values_by_task: ValuesByTask) -> NDArray[np.float64]:
    means = task_means(values_by_task)
    if len(means) and (means.min() < 0 or means.max() > 1):
        raise ValueError(f"proportions must be in [0, 1], got values from {means.min()} to {means.max()}")
    return means


def _effective_size(
    values_by_task: ValuesByTask, means: NDArray[np.float64], clusters: Clusters, *, added: int = 0
) -> float:
    """p (1 - p) / SE^2 of families and of `added` ones whose trials all succeed or all fail; F if p is 0 or 1."""
    p, n_tasks = float(means.mean()), len(means)
    of_one = p * (1 - p)
    trials = sum(len(values) for values in values_by_task)
    squares = clusters.squares(means - p) + added * of_one * (n_tasks / clusters.count) ** 2
    effective = n_tasks**2 * of_one / squares if squares > 0 else (trials if of_one else clusters.count)
    return min(max(effective, clusters.count), trials)


def cluster_bootstrap(
    values_by_task: Sequence[Any] | NDArray[Any],
    statistic: Callable[[Any], float],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap over whole tasks, for statistics without a formula.

    Args:
        values_by_task: one entry per task, of any kind that `statistic` reads; an array is resampled as an array.
        statistic: of a resampled list of entries; resamples where it is not finite are left out. If all resamples
            agree, or the statistic itself is infinite, the interval is infinite.
    Source: Efron and Tibshirani 1993, chapter 13; resampling clusters: Field and Welsh 2007, JRSS B 69(3).
    """
    n = len(values_by_task)
    if n == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0)
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):  # a model may say numbers whose squares are infinite
        drawn = [statistic(_chosen(values_by_task, rng.integers(n, size=n))) for _ in range(resamples)]
        mean = float(statistic(values_by_task))
    values = [value for value in drawn if math.isfinite(value)]
    if n == 1 or len(values) == 0 or _all_equal(values) or math.isinf(mean):
        return Estimate(mean, -math.inf, math.inf, n)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high), n)


def _chosen(values_by_task: Sequence[Any] | NDArray[Any], tasks: NDArray[np.int64]) -> Sequence[Any] | NDArray[Any]:
    return values_by_task[tasks] if isinstance(values_by_task, np.ndarray) else [values_by_task[i] for i in tasks]


def paired_difference(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    level: float = 0.95,
    *,
    families: Mapping[str, str] | None = None,
) -> Estimate:
    """Mean of `first - second` over the tasks that both have.

    Pairing removes the variance that tasks share: hard tasks are hard for both agents. The interval is Student's t over
    tasks. Outcomes, which are all 0 or 1, have that of `paired_outcomes` instead, which never has width 0.

    Args: families: of tasks, by id; they are then the unit.
    Source: Miller 2024, arXiv:2411.00640, section 4.2.
    """
    shared = [task for task in first if task in second and len(first[task]) and len(second[task])]
    one, other = [first[task] for task in shared], [second[task] for task in shared]
    of_tasks = families_of(shared, families or {})
    if shared and all(value in (0, 1) for values in (*one, *other) for value in values):
        return paired_outcomes(one, other, level, families=of_tasks)
    return clustered_mean((task_means(one) - task_means(other))[:, None].tolist(), level, families=of_tasks)


def paired_outcomes(
    first: ValuesByTask, second: ValuesByTask, level: float = 0.95, *, families: Families = ()
) -> Estimate:
    """Difference of two success rates on the same tasks; its interval is never empty, never outside [-1, 1].

    Wilson's intervals of the two rates at their effective sample sizes (as in `clustered_proportion`, without what
    makes those wider: a difference of pairs needs neither) are combined by squaring and adding, with the correlation
    of the tasks' means. With one trial per task this is Newcombe's interval, his correction of the correlation
    included. With several trials, and over families, Student's t of the mean difference of tasks (families) counts
    where it is wider: neither is wide enough everywhere. One family says nothing.

    Args: first, second: (C,) outcomes of each task's trials, each 0 or 1; at least one trial per task.
    Source: Newcombe 1998, Statistics in Medicine 17, 2635, method 10; for intervals of other kinds Zou and Donner 2008,
        Statistics in Medicine 27, 1693.
    """
    x, y, clusters = _proportions(first), _proportions(second), Clusters.of(first, families)
    if families and clusters.count < 2:
        return Estimate(float(x.mean() - y.mean()), -1.0, 1.0, len(x))
    one, other = _rate(first, x, clusters, level), _rate(second, y, clusters, level)
    of_x, of_y = clusters.sums(x - one.mean), clusters.sums(y - other.mean)
    covariance = float(np.sum(of_x * of_y)) / len(x)
    if covariance > 0:
        covariance = max(covariance - 1 / (2 * len(x)), 0.0)
    spread = math.sqrt(float(np.sum(of_x**2)) * float(np.sum(of_y**2))) / len(x)
    correlation = covariance / spread if spread > 0 else 0.0
    mean = one.mean - other.mean
    below = _combined(one.mean - one.low, other.high - other.mean, correlation)
    above = _combined(one.high - one.mean, other.mean - other.low, correlation)
    if clusters.count < len(x) or max(map(len, (*first, *second)), default=0) > 1:
        half = (
            (clustered_mean((x - y)[:, None].tolist(), level, families=families).high - mean) if np.ptp(x - y) else 0.0
        )
        below, above = max(below, half), max(above, half)
    return Estimate(mean, max(mean - below, -1.0), min(mean + above, 1.0), len(x))


def _rate(values_by_task: ValuesByTask, means: NDArray[np.float64], clusters: Clusters, level: float) -> Estimate:
    """The rate with Wilson's interval at the effective sample size."""
    p, effective = float(means.mean()), _effective_size(values_by_task, means, clusters)
    if clusters.count < len(means):
        effective *= _students_share(clusters.count, level)
    return Estimate(p, *wilson_interval(p * effective, effective, level), len(means))


def _combined(first: float, second: float, correlation: float) -> float:
    """Length of the sum of two distances whose directions correlate."""
    return math.sqrt(max(first * first - 2 * correlation * first * second + second * second, 0.0))


def paired_over_seeds(
    first: Sequence[Mapping[str, Sequence[float]]],
    second: Sequence[Mapping[str, Sequence[float]]],
    level: float = 0.95,
    *,
    same_seeds: bool = False,
) -> Estimate:
    """Difference of two success rates on the same tasks, each over several seeds; tasks and seeds are both random.

    The variance of the mean is that between tasks, plus that between the seeds of either side, minus that of single
    cells, and never less than either of the first two; Student's t has Satterthwaite's degrees of freedom. The interval
    is never narrower than `paired_outcomes` of the pooled seeds. A side with one seed says nothing about seeds.

    Args:
        first, second: of each seed the outcomes by task, each 0 or 1; tasks that every seed has count, see `n`.
        same_seeds: the two have the same seeds in the same order, and differences are taken seed by seed.
    Source: Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2), eq. 2.11 (two-way clustering).
    """
    every = [*first, *second]
    shared = [task for task in every[0] if all(len(outcomes.get(task, ())) for outcomes in every)]
    one, other = ([[x for of_seed in side for x in of_seed[task]] for task in shared] for side in (first, second))
    pooled = paired_outcomes(one, other, level)
    if len(shared) < 2 or len(every) == 2:
        return pooled
    one_ST, other_ST = (np.array([task_means([v[task] for task in shared]) for v in side]) for side in (first, second))
    half = _half_over_seeds([one_ST - other_ST] if same_seeds else [one_ST, -other_ST], level)
    low, high = max(pooled.mean - half, -1.0), min(pooled.mean + half, 1.0)
    return Estimate(pooled.mean, min(pooled.low, low), max(pooled.high, high), len(shared))


def _half_over_seeds(parts: Sequence[NDArray[np.float64]], level: float) -> float:
    """Half the interval of the sum of the parts' means. Args: parts: each (S, T), with tasks in common."""
    tasks = parts[0].shape[1]
    repeated = [part for part in parts if len(part) > 1]
    of_tasks = float(np.var(np.sum([part.mean(axis=0) for part in parts], axis=0), ddof=1)) / tasks
    of_seeds = [float(np.var(part.mean(axis=1), ddof=1)) / len(part) for part in repeated]
    of_cells = sum(float(np.var(part, ddof=1)) / part.size for part in repeated)
    variance = max(of_tasks + sum(of_seeds) - of_cells, of_tasks, sum(of_seeds))
    if not variance:
        return 0.0
    freedom = of_tasks**2 / (tasks - 1)
    freedom += sum(own**2 / (len(part) - 1) for own, part in zip(of_seeds, repeated, strict=True))
    return t_quantile(max(1, int(variance**2 / freedom)), level) * math.sqrt(variance)
