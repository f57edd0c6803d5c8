"""Tests of differences against scipy, hand-worked numbers and enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from agentrl.bench.statistics.significance import (
    holm,
    mcnemar_test,
    noise_floor,
    paired_permutation_test,
    tasks_to_resolve,
)


def once(values):
    return [[float(value)] for value in values]


def test_the_permutation_test_counts_every_swap_as_scipy_does():
    rng = np.random.default_rng(1)
    for size in (3, 7, 12):
        first, second = rng.normal(size=size), rng.normal(0.4, 1, size=size)
        wanted = stats.permutation_test(
            (first - second,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        found = paired_permutation_test(once(first), once(second))
        assert found.exact == pytest.approx(wanted.pvalue, abs=1e-9)
        # No two of these sums are equal, but each has one of the other sign.
        assert found.mid == pytest.approx(wanted.pvalue - 1 / 2**size, abs=1e-9)


def test_tasks_on_which_both_are_equal_change_nothing():
    first, second = once([1, 1, 1, 1, 0, 0]), once([0, 0, 0, 0, 0, 0])
    assert paired_permutation_test(first, second).exact == pytest.approx(2 / 2**4, abs=1e-12)
    more = [[1.0]] * 3000
    assert paired_permutation_test([*first, *more], [*second, *more]).exact == pytest.approx(2 / 2**4, abs=1e-12)
    assert paired_permutation_test(more, more) == (1.0, 1.0)


def test_drawn_swaps_agree_with_all_of_them_and_are_repeatable():
    rng = np.random.default_rng(2)
    first, second = once(rng.normal(size=13)), once(rng.normal(0.5, 1, size=13))
    exact = paired_permutation_test(first, second, resamples=2**13).exact
    drawn = paired_permutation_test(first, second, resamples=8000).exact
    assert exact != drawn
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 8000) + 2e-4)
    assert drawn == paired_permutation_test(first, second, resamples=8000).exact


def test_trials_of_a_task_are_one_unit():
    assert paired_permutation_test([[1.0] * 50, [1.0] * 50], [[0.0] * 50, [0.0] * 50]) == (0.5, 0.25)


def test_the_mid_p_value_of_outcomes_is_that_of_mcnemar():
    rng = np.random.default_rng(5)
    for size in (6, 11, 13):
        first, second = rng.integers(2, size=size), rng.integers(2, size=size)
        won, differ = int((first > second).sum()), int((first != second).sum())
        # Fagerland, Lydersen and Laake 2013, BMC Med. Res. Methodol. 13:91: the exact p minus the chance of this table.
        wanted = stats.binomtest(won, differ).pvalue - (
            stats.binom.pmf(won, differ, 0.5) if 2 * won != differ else stats.binom.pmf(won, differ, 0.5) / 2
        )
        assert paired_permutation_test(once(first), once(second)).mid == pytest.approx(wanted, abs=1e-9)


def test_tasks_of_a_family_are_swapped_together():
    first, second = once([1, 1, 1, 1, 1, 1]), once([0, 0, 0, 0, 0, 0])
    families = ["a", "a", "a", "b", "b", ""]
    by_hand = paired_permutation_test([[3.0], [2.0], [1.0]], [[0.0]] * 3)
    assert paired_permutation_test(first, second, families=families) == by_hand == (0.25, 0.125)


def test_mcnemar_is_scipys_binomial_test_of_the_tasks_that_differ():
    rng = np.random.default_rng(3)
    for size in (5, 40, 300, 60_000):  # the last one takes minutes if each term is computed anew
        first, second = rng.integers(2, size=size), rng.integers(2, size=size)
        differ = int((first != second).sum())
        wanted = stats.binomtest(int(((first == 1) & (second == 0)).sum()), differ).pvalue
        assert mcnemar_test(once(first), once(second)) == pytest.approx(wanted, abs=1e-9)
    assert mcnemar_test(once([1, 0]), once([1, 0])) == 1.0


@pytest.mark.parametrize(("first", "second"), [([[1.0, 0.0]], [[1.0]]), ([[0.5]], [[1.0]])])
def test_mcnemar_says_nothing_of_several_trials_or_partial_credit(first, second):
    assert mcnemar_test(first, second) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 * .01, then 2 * .03, then max(.06, .04)
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_noise_floor_by_hand_and_by_simulation():
    # Variance within each task: 1/2 for (1, 0), 0 for (1, 1), so 1/4; of a mean of 2 trials over 2 tasks: 1/4 / 2 / 2.
    assert noise_floor([[1.0, 0.0], [1.0, 1.0]]) == pytest.approx(1.959964 * math.sqrt(2 / 16), abs=1e-6)
    assert math.isnan(noise_floor([[1.0], [0.0]]))
    rng = np.random.default_rng(4)
    chances = rng.beta(1, 1, size=60)
    runs = rng.binomial(4, chances, size=(4000, 60)) / 4
    seen = np.quantile(abs(runs[:2000].mean(1) - runs[2000:].mean(1)), 0.95)
    floors = [noise_floor((rng.random((60, 4)) < chances[:, None]).astype(float).tolist()) for _ in range(50)]
    assert np.mean(floors) == pytest.approx(seen, rel=0.07)


def test_the_number_of_tasks_finds_the_difference_as_often_as_promised():
    rng = np.random.default_rng(5)

    def played(size, shift):
        chances = rng.beta(2, 2, size=size)
        return [(rng.random((size, 2)) < c[:, None]).astype(float).tolist() for c in (chances * (1 - shift), chances)]

    first, second = played(4000, 0.2)
    wanted = tasks_to_resolve(first, second, 0.1)
    found = [stats.ttest_1samp(np.diff(np.mean(played(wanted, 0.2), axis=2), axis=0)[0], 0).pvalue for _ in range(600)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.8, abs=0.05)


def test_more_trials_need_fewer_tasks_and_what_is_unknown_is_none():
    rng = np.random.default_rng(6)
    first, second = (rng.integers(2, size=(200, 4)).astype(float).tolist() for _ in range(2))
    numbers = [tasks_to_resolve(first, second, 0.05, trials=trials) for trials in (1, 4, 16)]
    assert numbers[0] > numbers[1] > numbers[2]
    assert numbers[1] == tasks_to_resolve(first, second, 0.05)
    assert tasks_to_resolve(once([1, 0]), once([0, 0]), 0.1, trials=4) is None
    assert tasks_to_resolve(once([1]), once([0]), 0.1) is None
    with pytest.raises(ValueError, match="above 0"):
        tasks_to_resolve(first, second, 0.0)
