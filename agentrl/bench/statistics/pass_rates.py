"""pass@k and pass^k: the chance that one of k trials succeeds, and that all do. Each formula with its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agentrl.bench.estimates import Estimate, clustered_proportion
from agentrl.bench.statistics.families import Families

_MOST_TASKS = 0.5
"""Share of the tasks that must have k trials for k to be shown."""


def pass_at_k_of_task(n: int, c: int, k: int) -> float:
    """Chance that at least one of k trials succeeds, unbiased, from c successes in n trials: 1 - C(n-c, k)/C(n, k).

    Source: Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    _check_counts(n, c, k)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k_of_task(n: int, c: int, k: int) -> float:
    """Chance that all of k trials succeed, unbiased, from c successes in n trials: C(c, k)/C(n, k).

    Source: Yao et al. 2024 (tau-bench), arXiv:2406.12045, section 4.
    """
    _check_counts(n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def _check_counts(n: int, c: int, k: int) -> None:
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"needs 1 <= k <= n and 0 <= c <= n, got n={n} trials, c={c} successes, k={k}")


def pass_at_k(
    successes_by_task: Sequence[Sequence[bool]], k: int, level: float = 0.95, *, families: Families = ()
) -> Estimate:
    """pass@k over tasks; tasks with fewer than k trials are left out (`n` says how many counted)."""
    return _over_tasks(successes_by_task, k, pass_at_k_of_task, level, families)


def pass_hat_k(
    successes_by_task: Sequence[Sequence[bool]], k: int, level: float = 0.95, *, families: Families = ()
) -> Estimate:
    """pass^k over tasks (`n` says how many counted).

    A task with fewer than k trials is left out if all of them succeeded. It counts as 0 if one failed, because not all
    of its k trials succeed then: so pass^k never rises with k, and a lost trial hides no failed one.
    """
    counted = [s if not s or len(s) >= k or all(s) else [False] * k for s in map(list, successes_by_task)]
    return _over_tasks(counted, k, pass_hat_k_of_task, level, families)


def complete(successes_by_task: Sequence[Sequence[bool]], trials: int) -> tuple[int, list[int]]:
    """One set of tasks for every k, so that pass^k cannot rise with k where trials are missing.

    Args: trials: asked for per task.
    Returns: the largest k, and the indices of the tasks that have as many trials: all `trials` where half of the tasks
        have them, else the most that half of the tasks have; 0 and none where there is no such k.
    """
    numbers = [len(s) for s in successes_by_task]
    for k in range(trials, 0, -1):
        kept = [index for index, number in enumerate(numbers) if number >= k]
        if kept and len(kept) >= _MOST_TASKS * len(numbers):
            return k, kept
    return 0, []


def _over_tasks(
    successes_by_task: Sequence[Sequence[bool]],
    k: int,
    of_task: Callable[[int, int, int], float],
    level: float,
    families: Families,
) -> Estimate:
    # The trials of a task became one number, so the effective size is capped by trials // k as independent looks.
    looked = [[of_task(len(s), sum(s), k)] * (len(s) // k) if len(s) >= k else [] for s in map(list, successes_by_task)]
    return clustered_proportion(looked, level, families=families)
