"""The formulas against independent programs, to 1e-9: scipy, and numbers that statsmodels 0.14.6 printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from agentrl.bench.estimates import (
    clustered_standard_error,
    mean_interval,
    paired_difference,
    paired_outcomes,
    t_quantile,
    wilson_interval,
)
from agentrl.bench.statistics.pass_rates import pass_at_k_of_task, pass_hat_k_of_task
from agentrl.bench.statistics.significance import holm, mcnemar_test, noise_floor, tasks_to_resolve

EXACT = 1e-9


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (20, 20), (81, 263)])
def test_wilson(k: int, n: int) -> None:
    wanted = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(k, n) == pytest.approx((wanted.low, wanted.high), abs=EXACT)


def test_wilson_as_statsmodels_has_it() -> None:
    assert wilson_interval(7, 20) == pytest.approx((0.18119182410108203, 0.5671457233147638), abs=EXACT)
    assert wilson_interval(81, 263) == pytest.approx((0.2552885198782742, 0.36620957698280004), abs=EXACT)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("df", [1, 2, 3, 9, 49, 199, 1999])
def test_students_t(df: int, level: float) -> None:
    assert t_quantile(df, level) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=EXACT)


def test_beyond_2000_degrees_of_freedom_the_quantile_is_right_to_1e_6() -> None:
    assert t_quantile(2001) == pytest.approx(stats.t.ppf(0.975, 2001), abs=1e-6)


def test_a_mean_and_a_paired_difference() -> None:
    rng = np.random.default_rng(7)
    first, second = rng.normal(size=25), rng.normal(size=25)
    wanted = stats.ttest_1samp(first, 0).confidence_interval(0.95)
    assert mean_interval(first.tolist()).ci95 == pytest.approx(tuple(wanted), abs=EXACT)
    paired = stats.ttest_rel(first, second).confidence_interval(0.95)
    one, other = ({str(i): [float(x)] for i, x in enumerate(side)} for side in (first, second))
    assert paired_difference(one, other).ci95 == pytest.approx(tuple(paired), abs=EXACT)


def test_the_clustered_standard_error_is_that_of_statsmodels_by_family() -> None:
    values = [[0.1], [0.3], [0.9], [0.8], [1.0], [0.4], [0.2]]
    # OLS on a constant, cov_type="cluster", without its own correction, times sqrt(4 / 3) for four families.
    assert clustered_standard_error(values, ["a", "a", "b", "b", "b", "c", "d"]) == pytest.approx(
        0.22118783741355727, abs=EXACT
    )


def test_newcombes_interval_by_hand() -> None:
    """Method 10 for 12 tasks of which 9 and 2 are won by one alone, computed step by step as the paper writes it."""
    first = [[1.0]] * 9 + [[0.0]] * 2 + [[1.0]]
    second = [[0.0]] * 9 + [[1.0]] * 2 + [[1.0]]
    won, lost = 10 / 12, 3 / 12
    (low1, high1), (low2, high2) = (tuple(stats.binomtest(k, 12).proportion_ci(method="wilson")) for k in (10, 3))
    both, neither = 1, 0
    numerator = both * neither - 9 * 2
    phi = numerator / math.sqrt(10 * 2 * 3 * 9)
    dl1, du1, dl2, du2 = won - low1, high1 - won, lost - low2, high2 - lost
    below = math.sqrt(dl1**2 - 2 * phi * dl1 * du2 + du2**2)
    above = math.sqrt(du1**2 - 2 * phi * du1 * dl2 + dl2**2)
    found = paired_outcomes(first, second)
    assert found.ci95 == pytest.approx((won - lost - below, min(won - lost + above, 1.0)), abs=EXACT)


def test_holm_and_mcnemar_as_statsmodels_has_them() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5], abs=EXACT)
    assert mcnemar_test([[1.0]] * 9 + [[0.0]] * 2, [[0.0]] * 9 + [[1.0]] * 2) == pytest.approx(0.0654296875, abs=EXACT)


@pytest.mark.parametrize(("n", "c", "k"), [(10, 3, 4), (8, 8, 2), (5, 0, 3), (16, 9, 8)])
def test_pass_rates_are_hypergeometric(n: int, c: int, k: int) -> None:
    drawn = stats.hypergeom(n, c, k)
    assert pass_at_k_of_task(n, c, k) == pytest.approx(1 - drawn.pmf(0), abs=EXACT)
    assert pass_hat_k_of_task(n, c, k) == pytest.approx(drawn.pmf(k), abs=EXACT)


def test_the_noise_floor_and_the_number_of_tasks_by_hand() -> None:
    values = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    # Within tasks: (0.5 + 0 + 0) / 3; of a mean over three tasks of two trials: that / 6; twice for a difference.
    assert noise_floor(values) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(2 * 0.5 / 3 / 6), abs=EXACT)
    other = [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
    variance = np.var([0.5, 0.0, -0.5], ddof=1)
    wanted = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * variance / 0.1**2
    assert tasks_to_resolve(values, other, 0.1) == math.ceil(wanted)
