"""The jackknife over tasks and seeds against formulas that are known for means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest

from agentrl.bench.estimates import mean_interval
from agentrl.bench.statistics.jackknife import over_seeds


def seeds_of(values_ST: np.ndarray) -> list[dict[str, list[float]]]:
    return [{f"t{i}": [float(x)] for i, x in enumerate(row)} for row in values_ST]


def test_one_seed_has_the_t_interval_of_a_mean() -> None:
    """With one task a group the delete-one jackknife of a mean is its standard error."""
    values = np.random.default_rng(0).normal(size=(1, 12))
    found, expected = over_seeds(seeds_of(values), fmean), mean_interval(values[0].tolist())
    assert found.mean == pytest.approx(expected.mean)
    assert found.ci95 == pytest.approx(expected.ci95)


def test_seeds_that_differ_and_tasks_that_do_not_give_the_t_interval_over_seeds() -> None:
    values = np.repeat([[1.0], [2.0], [4.0]], 8, axis=1)
    found, expected = over_seeds(seeds_of(values), fmean), mean_interval([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(expected.mean)
    assert found.ci95 == pytest.approx(expected.ci95)


def test_a_difference_is_taken_seed_by_seed_and_on_shared_tasks() -> None:
    values = np.random.default_rng(1).normal(size=(3, 10))
    one = seeds_of(values + 2.0)
    one[0]["only here"] = [1000.0]
    found = over_seeds(one, fmean, minus=seeds_of(values))
    assert found.mean == pytest.approx(2.0)
    assert found.ci95 == (-math.inf, math.inf)  # all differences are equal: nothing is known of their spread
    assert found.n == 10
    with pytest.raises(ValueError, match="same seeds"):
        over_seeds(one, fmean, minus=seeds_of(values)[:2])


def test_the_interval_covers_a_root_mean_square_as_often_as_it_says() -> None:
    """3 seeds with effects of their own, 40 tasks: 95% intervals of a nonlinear statistic cover in 91 to 99% of 300."""
    rng = np.random.default_rng(2)
    truth = math.sqrt(1.0 + 0.25 + 1.0)
    covered = 0
    for _ in range(300):
        values = rng.normal(size=(1, 40)) + 0.5 * rng.normal(size=(3, 40)) + 1.0
        found = over_seeds(seeds_of(values), lambda x: math.sqrt(fmean(v * v for v in x)))
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_what_is_not_known_has_no_interval() -> None:
    def first(values: Sequence[float]) -> float:
        return values[0] if len(values) > 1 else math.nan

    assert over_seeds([{"a": [1.0]}], fmean).ci95 == (-math.inf, math.inf)
    assert math.isnan(over_seeds([{"a": [1.0]}, {"b": [1.0]}], fmean).mean)
    assert over_seeds([{"a": [1.0], "b": [2.0]}], first).ci95 == (-math.inf, math.inf)
