"""Tasks of a family are one unit; checked by hand and against the formula of clustered standard errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from agentrl.bench.compare import comparison
from agentrl.bench.estimates import (
    Estimate,
    clustered_mean,
    clustered_proportion,
    clustered_standard_error,
    mean_over_trials,
    paired_difference,
    paired_outcomes,
)
from agentrl.bench.measures.success import Reward, Success
from agentrl.bench.result import score_of
from agentrl.bench.runner import run_bench
from agentrl.bench.statistics.families import Clusters, families_of
from agentrl.bench.statistics.significance import tasks_to_resolve
from agentrl.env.tasks import Tasks
from agentrl.trajectory import Ending
from tests.bench.toys import Adder, Some

FAMILIES = ["a", "a", "b", "b", "b", "", "c"]


class Variants(Adder):
    """Eight sums, two of each of four families."""

    tasks = Tasks.of(eval=[{"a": n, "b": 10 * n, "family": "abcd"[n // 2]} for n in range(8)])


class Twins(Adder):
    """Four sums of one family."""

    tasks = Tasks.of(eval=[{"a": n, "b": 10 * n, "family": "a"} for n in range(4)])


def clustered_by_hand(values: list[float], families: list[str]) -> float:
    """The sum over all pairs of tasks of one family of the products of their deviations, times F / (F - 1)."""
    names = [name or str(index) for index, name in enumerate(families)]
    mean, count = sum(values) / len(values), len(set(names))
    pairs = sum(
        (x - mean) * (y - mean)
        for x, one in zip(values, names, strict=True)
        for y, other in zip(values, names, strict=True)
        if one == other
    )
    return math.sqrt(pairs * count / (count - 1)) / len(values)


def test_the_standard_error_is_the_published_double_sum() -> None:
    values = [0.1, 0.3, 0.9, 0.8, 1.0, 0.4, 0.2]
    by_hand = clustered_by_hand(values, FAMILIES)
    assert clustered_standard_error([[v] for v in values], FAMILIES) == pytest.approx(by_hand, abs=1e-12)
    estimate = clustered_mean([[v] for v in values], families=FAMILIES)
    half = stats.t.ppf(0.975, 3) * by_hand
    assert (estimate.low, estimate.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-9)
    assert mean_over_trials([[v] for v in values], families=FAMILIES) == pytest.approx(estimate)


def test_families_of_one_task_each_change_nothing() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((12, 3)) < 0.6).astype(float).tolist()
    others = (rng.random((12, 3)) < 0.4).astype(float).tolist()
    alone = [str(n) for n in range(12)]
    assert clustered_proportion(values, families=alone) == clustered_proportion(values)
    assert paired_outcomes(values, others, families=alone) == paired_outcomes(values, others)
    assert clustered_mean(values, families=alone).low == pytest.approx(clustered_mean(values).low, abs=1e-12)
    assert tasks_to_resolve(values, others, 0.1, families=alone) == tasks_to_resolve(values, others, 0.1)


def test_twins_add_no_precision() -> None:
    rng = np.random.default_rng(1)
    single = (rng.random((15, 4)) < rng.beta(1, 1, size=(15, 1))).astype(float).tolist()
    other = (rng.random((15, 4)) < 0.5).astype(float).tolist()
    twins, other_twins = [v for v in single for _ in range(2)], [v for v in other for _ in range(2)]
    families = [str(n // 2) for n in range(30)]
    one, two = clustered_proportion(single), clustered_proportion(twins, families=families)
    assert (two.low, two.high, two.n) == pytest.approx((one.low, one.high, 30), abs=1e-12)
    assert clustered_mean(twins, families=families).low == pytest.approx(clustered_mean(single).low, abs=1e-12)
    pair = paired_outcomes(twins, other_twins, families=families)
    alone = paired_outcomes(single, other)
    assert pair.mean == pytest.approx(alone.mean)
    assert 0.9 < (pair.high - pair.low) / (alone.high - alone.low) < 1.3
    assert pair.high - pair.low > 1.2 * (lambda e: e.high - e.low)(paired_outcomes(twins, other_twins))


def test_tasks_that_balance_each_other_make_no_interval_narrower() -> None:
    values = [[1.0], [0.0]] * 6
    families = [str(n // 2) for n in range(12)]
    assert clustered_proportion(values, families=families).low <= clustered_proportion(values).low
    assert clustered_mean(values, families=families).low <= clustered_mean(values).low


def test_one_family_says_nothing() -> None:
    assert clustered_proportion([[1.0], [0.0], [1.0]], families=["a"] * 3).ci95 == (0.0, 1.0)
    for values in ([[1.0], [0.0], [2.0]], [[1.0], [1.0], [1.0]]):
        assert clustered_mean(values, families=["a"] * 3) == Estimate(1.0, -math.inf, math.inf, 3)
    third = paired_outcomes([[1.0], [1.0], [0.0]], [[0.0], [1.0], [0.0]], families=["a"] * 3)
    assert third == Estimate(pytest.approx(1 / 3), -1.0, 1.0, 3)
    whole = paired_outcomes([[1.0], [1.0]], [[0.0], [0.0]], families=["a"] * 2)
    assert whole == Estimate(1.0, -1.0, 1.0, 2)


def test_benchmarks_of_one_family_are_compared() -> None:
    good, bad = run_bench(Twins, Some(right=4)), run_bench(Twins, Some(right=1))
    found = comparison(good.record, bad.record)
    assert found.difference == Estimate(pytest.approx(0.75), -1.0, 1.0, 4)
    assert found.tests.exact == 1.0
    assert found.tests.mcnemar is None, "the test takes tasks as independent"
    assert comparison(good.record, bad.record, "reward").difference.mean == pytest.approx(0.75)


def test_pass_rates_of_attempted_episodes_are_clustered_by_families_too() -> None:
    episodes = run_bench(Variants, Some(right=4)).trajectories
    lost = [replace(e, ending=Ending("fault", "down", "server")) if e.task.id == "eval-3" else e for e in episodes]
    found = score_of(lost, trials=1, n_planned=8).pass_hat_attempted[1]
    values = [[1.0]] * 3 + [[0.0]] * 5
    assert found == clustered_proportion(values, families=["a", "a", "b", "b", "c", "c", "d", "d"])
    assert found != clustered_proportion(values)


def test_tasks_without_a_trial_are_left_out_with_their_family() -> None:
    assert Clusters.of([[1.0], [], [0.0]], ["a", "b", "a"]).count == 1
    assert families_of(["x", "y"], {"y": "b"}) == ["", "b"]
    assert families_of(["x", "y"], {"z": "b"}) == ()
    with pytest.raises(ValueError, match="a family for each of 2 tasks, got 1"):
        Clusters.of([[1.0], [0.0]], ["a"])


def test_the_coverage_holds_where_families_share_their_chance() -> None:
    rng, covered, naive = np.random.default_rng(2), 0, 0
    families = [str(n // 8) for n in range(160)]
    for _ in range(400):
        chances = np.repeat(rng.beta(2, 2, size=20), 8)
        values = (rng.random((160, 1)) < chances[:, None]).astype(float).tolist()
        with_families, without = clustered_proportion(values, families=families), clustered_proportion(values)
        covered += with_families.low <= 0.5 <= with_families.high
        naive += without.low <= 0.5 <= without.high
    assert covered / 400 >= 0.93
    assert naive / 400 < 0.85


def test_a_benchmark_is_clustered_by_the_families_that_its_tasks_name() -> None:
    good, better = run_bench(Variants, Some(right=4), trials=2), run_bench(Variants, Some(right=6), trials=2)
    families = ["a", "a", "b", "b", "c", "c", "d", "d"]
    values = list(Success().values_by_task(good.trajectories).values())
    assert good.score.success == clustered_proportion(values, families=families)
    assert good.score.success != clustered_proportion(values)
    assert Reward()(good.trajectories) == good.score.success
    assert good.record.families == {f"eval-{n}": "abcd"[n // 2] for n in range(8)}
    found = comparison(better.record, good.record)
    by_task = {task: [trial.success for trial in result.trials] for task, result in better.record.tasks.items()}
    other = {task: [trial.success for trial in result.trials] for task, result in good.record.tasks.items()}
    assert found.difference == paired_difference(by_task, other, families=good.record.families)
    assert found.tests.exact == 1.0  # one family differs
    assert type(better.record).from_json(better.to_json()).families == better.record.families
