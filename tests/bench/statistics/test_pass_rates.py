"""pass@k and pass^k: by hand, as averages over all subsets of the trials, and covering the truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.bench.estimates import (
    clustered_proportion,
)
from agentrl.bench.statistics.pass_rates import pass_at_k, pass_at_k_of_task, pass_hat_k, pass_hat_k_of_task


def test_pass_at_k_and_pass_hat_k_by_hand() -> None:
    # Two successes in four trials: 1 - C(2,2)/C(4,2) = 5/6, and C(2,2)/C(4,2) = 1/6.
    assert pass_at_k_of_task(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_hat_k_of_task(4, 2, 2) == pytest.approx(1 / 6)
    assert pass_at_k_of_task(4, 3, 2) == 1.0
    assert pass_hat_k_of_task(4, 1, 2) == 0.0


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_rates_are_averages_over_all_subsets(nck: tuple[int, int, int]) -> None:
    n, c, k = nck
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k_of_task(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_hat_k_of_task(n, c, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_trials(k: int) -> None:
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k_of_task(4, 2, k)


def test_pass_rates_over_tasks() -> None:
    outcomes = [[True, True], [True, False], [False, False], [True]]
    assert pass_at_k(outcomes, 2).mean == pytest.approx(2 / 3)
    assert pass_hat_k(outcomes, 2).mean == pytest.approx(1 / 3)
    assert pass_hat_k(outcomes, 2).n == 3  # the task with one trial is left out
    assert pass_at_k(outcomes, 1).mean == pass_hat_k(outcomes, 1).mean == pytest.approx(2.5 / 4)
    assert pass_at_k(outcomes, 1).ci95 == pytest.approx(clustered_proportion(outcomes).ci95)
    assert pass_at_k(outcomes, 3).n == 0


def test_pass_hat_k_covers_the_truth() -> None:
    # p uniform: E[p^3] = 1/4.
    rng, covered, rounds = np.random.default_rng(1), 0, 1000
    for _ in range(rounds):
        outcomes = rng.random((50, 6)) < rng.random((50, 1))
        low, high = pass_hat_k(outcomes.tolist(), 3).ci95
        covered += low <= 0.25 <= high
    assert 0.93 <= covered / rounds <= 0.985
