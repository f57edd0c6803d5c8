"""Hand-computed values, independent formulas, and coverage by simulation."""

import itertools
import math
from math import inf, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.bench.estimates import (
    Estimate,
    cluster_bootstrap,
    clustered_mean,
    clustered_proportion,
    clustered_standard_error,
    mean_interval,
    mean_over_trials,
    paired_difference,
    paired_outcomes,
    paired_over_seeds,
    t_cdf_two_sided,
    t_quantile,
    wilson_interval,
)
from agentrl.bench.statistics.pass_rates import pass_hat_k


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_touches_zero_and_one_exactly_and_never_has_width_zero() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(7, 7)[0] == pytest.approx(7 / (7 + 1.959964**2), abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(
    ("df", "level", "t"),
    # A standard printed table of Student's t.
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.3027),
        (3, 0.99, 5.8409),
        (7, 0.95, 2.3646),
        (10, 0.95, 2.2281),
        (30, 0.90, 1.6973),
        (100, 0.95, 1.9840),
        (5000, 0.95, 1.9604),
    ],
)
def test_t_quantile_matches_the_printed_table(df: int, level: float, t: float) -> None:
    assert t_quantile(df, level) == pytest.approx(t, abs=6e-5)


@pytest.mark.parametrize("df", [1, 2, 5, 8, 41])
def test_t_cdf_is_the_integral_of_the_density(df: int) -> None:
    x = np.linspace(-1.7, 1.7, 20001)
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    density = np.exp(log_scale - (df + 1) / 2 * np.log1p(x * x / df))
    assert t_cdf_two_sided(1.7, df) == pytest.approx(float(np.trapezoid(density, x)), abs=1e-8)


def test_t_quantile_is_continuous_where_the_formula_changes() -> None:
    assert t_quantile(2000) == pytest.approx(t_quantile(2001), abs=2e-6)


def test_mean_interval_by_hand() -> None:
    # Mean 2, sample standard deviation 1, so half = 4.302653 / sqrt(3).
    estimate = mean_interval([1, 2, 3])
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.ci95 == pytest.approx((2 - 4.302653 / sqrt(3), 2 + 4.302653 / sqrt(3)), abs=1e-5)


def test_one_value_or_none_claims_no_precision() -> None:
    assert mean_interval([0.5]) == Estimate(0.5, -inf, inf, 1)
    assert isnan(mean_interval([]).mean)
    assert mean_interval([]).to_json() == {"mean": None, "ci95": [None, None], "n": 0}


def test_clustered_standard_error_is_the_published_double_sum() -> None:
    values = np.random.default_rng(3).integers(0, 2, size=(7, 4)).astype(float)
    mean, n = values.mean(), values.size
    double_sum = sum(
        (values[c, i] - mean) * (values[c, j] - mean) for c, i, j in itertools.product(range(7), range(4), range(4))
    )
    published = sqrt(double_sum) / n
    assert clustered_standard_error(values.tolist()) == pytest.approx(published * sqrt(7 / 6), rel=1e-12)


def test_repeating_every_trial_adds_no_precision() -> None:
    once = [[1.0], [0.0], [1.0], [1.0], [0.0]]
    often = [values * 10 for values in once]
    assert clustered_mean(often) == clustered_mean(once)
    assert clustered_proportion(often).ci95 == pytest.approx(clustered_proportion(once).ci95)


T19, T9 = 2.093024, 2.262157  # Student's t at 97.5%, from scipy


def test_one_trial_per_task_is_wilson_of_the_tasks_with_students_t() -> None:
    estimate = clustered_proportion([[1.0]] * 8 + [[0.0]] * 12)
    effective = 20 * (1.959964 / T19) ** 2
    assert estimate.mean == pytest.approx(0.4)
    assert estimate.ci95 == pytest.approx(wilson_interval(0.4 * effective, effective), abs=1e-6)


def test_equal_tasks_count_every_trial_but_for_the_task_that_is_added() -> None:
    # No variance between tasks but p (1 - p) of the one that is added: n* is 10^2, cut off at the 20 trials.
    effective = 20 * (1.959964 / T9) ** 2
    assert clustered_proportion([[1.0, 0.0]] * 10).ci95 == pytest.approx(
        wilson_interval(effective / 2, effective), abs=1e-6
    )


def test_the_effective_size_by_hand() -> None:
    # Deviations 8 * .25^2 and p (1 - p) = 1/4: n* = 8^2 / 4 / (0.5 + 0.25), between 8 tasks and 32 trials.
    outcomes = [[1.0, 1.0, 1.0, 0.0]] * 4 + [[0.0, 0.0, 0.0, 1.0]] * 4
    effective = 16 / 0.75 * (1.959964 / 2.364624) ** 2
    assert clustered_proportion(outcomes).ci95 == pytest.approx(wilson_interval(effective / 2, effective), abs=1e-6)


def test_all_solved_is_as_sure_as_the_number_of_tasks() -> None:
    effective = 20 * (1.959964 / T19) ** 2
    assert clustered_proportion([[1.0] * 8] * 20).ci95 == pytest.approx(wilson_interval(effective, effective), abs=1e-6)


def test_one_task_says_nothing_of_a_rate() -> None:
    assert clustered_proportion([[1.0, 1.0, 0.0, 1.0]]) == Estimate(0.75, 0.0, 1.0, 1)


def test_tasks_weigh_alike_when_faults_took_trials_away() -> None:
    estimate = clustered_proportion([[1.0], [0.0, 0.0, 0.0], []])
    assert (estimate.mean, estimate.n) == (0.5, 2)


def test_proportions_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got values from 0.0 to 2.0"):
        clustered_proportion([[0.0], [2.0]])
    assert clustered_proportion([]).ci95 == (0.0, 1.0)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=12))
def test_proportion_interval_holds_its_mean_and_stays_inside(outcomes: list[list[bool]]) -> None:
    estimate = clustered_proportion(outcomes)
    assert 0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean - 1e-12 <= estimate.high <= 1
    assert estimate.high - estimate.low > 0.01


def simulate_coverage(n_tasks: int, trials: int, a: float, b: float, rounds: int = 1500) -> tuple[float, float]:
    """Coverage of the clustered interval, and of Wilson's as if trials were independent."""
    rng, truth = np.random.default_rng(n_tasks), a / (a + b)
    clustered = naive = 0
    for _ in range(rounds):
        p = rng.beta(a, b, size=n_tasks)
        outcomes = (rng.random((n_tasks, trials)) < p[:, None]).astype(float)
        low, high = clustered_proportion(outcomes.tolist()).ci95
        clustered += low <= truth <= high
        low, high = wilson_interval(float(outcomes.sum()), outcomes.size)
        naive += low <= truth <= high
    return clustered / rounds, naive / rounds


@pytest.mark.parametrize(("n_tasks", "a", "b"), [(25, 0.6, 0.6), (50, 0.5, 0.25), (50, 2.0, 2.0), (30, 1.0, 9.0)])
def test_clustered_proportion_covers_the_truth(n_tasks: int, a: float, b: float) -> None:
    clustered, _ = simulate_coverage(n_tasks, 4, a, b)
    assert 0.93 <= clustered <= 0.985


def test_ignoring_clusters_would_claim_too_much() -> None:
    clustered, naive = simulate_coverage(40, 8, 0.5, 0.5)
    assert naive < 0.75
    assert clustered > 0.93


def test_clustered_mean_covers_the_truth() -> None:
    rng, covered, rounds = np.random.default_rng(0), 0, 2000
    for _ in range(rounds):
        values = rng.normal(size=(6, 1)) + rng.normal(size=(6, 3))
        low, high = clustered_mean(values.tolist()).ci95
        covered += low <= 0 <= high
    assert covered / rounds == pytest.approx(0.95, abs=0.015)


def test_bootstrap_of_a_mean_agrees_with_the_formula() -> None:
    values = np.random.default_rng(5).normal(size=(60, 2)).tolist()
    formula = clustered_mean(values)
    bootstrap = cluster_bootstrap(values, lambda tasks: float(np.mean([np.mean(v) for v in tasks])))
    assert bootstrap.mean == pytest.approx(formula.mean)
    assert bootstrap.high - bootstrap.low == pytest.approx(formula.high - formula.low, rel=0.1)
    assert bootstrap == cluster_bootstrap(values, lambda tasks: float(np.mean([np.mean(v) for v in tasks])))


def test_bootstrap_leaves_out_resamples_without_a_value() -> None:
    entries = [(10.0, 0), (20.0, 1)]  # (tokens, successes)

    def tokens_per_success(tasks: list[tuple[float, int]]) -> float:
        successes = sum(s for _, s in tasks)
        return sum(t for t, _ in tasks) / successes if successes else inf

    estimate = cluster_bootstrap(entries, tokens_per_success)
    assert (estimate.mean, estimate.low, estimate.high) == (30.0, 20.0, 30.0)
    assert cluster_bootstrap(entries[:1], tokens_per_success).ci95 == (-inf, inf)
    assert isnan(cluster_bootstrap([], tokens_per_success).mean)


def test_paired_difference_by_hand() -> None:
    first = {"a": [3.0, 1.0], "b": [1.0, 0.0], "c": [0.0], "only-first": [1.0]}
    second = {"a": [2.0, 1.0], "b": [0.0, 0.0], "c": [0.0], "only-second": [1.0]}
    estimate = paired_difference(first, second)  # differences 0.5, 0.5, 0
    assert estimate.mean == pytest.approx(1 / 3)
    half = 4.302653 * sqrt(1 / 12) / sqrt(3)
    assert estimate.ci95 == pytest.approx((1 / 3 - half, 1 / 3 + half), abs=1e-6)


def outcomes_of(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[list[int]], list[list[int]]]:
    """Tasks with one trial each, by who solved them."""
    first = [[1]] * (both + only_first) + [[0]] * (only_second + neither)
    return first, [[1]] * both + [[0]] * only_first + [[1]] * only_second + [[0]] * neither


@pytest.mark.parametrize(
    ("table", "difference", "interval"),
    [
        # Newcombe 1998, Statistics in Medicine 17, 2635, table III, method 10, and Fagerland, Lydersen and Laake 2014,
        # Statistics in Medicine 33, 2850, table IX.
        ((20, 12, 2, 16), 0.2, (0.0562, 0.3292)),
        ((36, 12, 2, 0), 0.2, (0.0569, 0.3404)),
        ((1, 1, 7, 12), -6 / 21, (-0.5069, -0.0256)),
    ],
)
def test_paired_outcomes_against_published_values(
    table: tuple[int, int, int, int], difference: float, interval: tuple[float, float]
) -> None:
    estimate = paired_outcomes(*outcomes_of(*table))
    assert estimate.mean == pytest.approx(difference)
    assert estimate.ci95 == pytest.approx(interval, abs=1e-4)


def test_a_difference_of_few_tasks_is_never_certain() -> None:
    won, lost = {str(i): [1.0] for i in range(5)}, {str(i): [0.0] for i in range(5)}
    every = paired_difference(won, lost)
    # Wilson's bounds are 0.5655 and 0.4345 for 5 of 5 and 0 of 5; 1 - sqrt(0.4345 ** 2 + 0.4345 ** 2).
    assert (every.mean, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - sqrt(2) * 0.43448, abs=1e-5)
    same = paired_difference(won, won)
    assert (same.mean, *same.ci95) == pytest.approx((0.0, -0.43448, 0.43448), abs=1e-5)
    mixed = {str(i): [float(i % 2), 1.0, 0.0] for i in range(30)}
    same = paired_difference(mixed, mixed)
    assert same.low < 0 < same.high
    assert paired_difference({"a": [1.0]}, {"a": [0.0]}).low < 0


def test_a_difference_that_is_the_same_everywhere_says_nothing_about_other_tasks() -> None:
    first, second = {str(i): [2.0] for i in range(20)}, {str(i): [0.5] for i in range(20)}
    assert paired_difference(first, second) == Estimate(1.5, -inf, inf, 20)
    assert clustered_mean([[0.1 + 0.2], [0.3]]).ci95 == (-inf, inf)
    assert mean_over_trials([[0.5, 0.5], [0.5]]).ci95 == (-inf, inf)
    assert cluster_bootstrap([(0, 1)] * 4, lambda pairs: sum(p[0] for p in pairs) / len(pairs)).ci95 == (-inf, inf)


def test_no_shared_task_is_no_difference() -> None:
    assert paired_difference({"a": [1.0]}, {"b": [1.0]}).n == 0


def test_paired_outcomes_cover_the_truth() -> None:
    # Both agents have the tasks' own success rates, so the true difference is 0; four correlated trials a task.
    rng, covered, rounds = np.random.default_rng(3), 0, 1000
    for _ in range(rounds):
        rates = rng.beta(2, 2, size=(20, 1))
        first, second = (rng.random((20, 4)) < rates for _ in range(2))
        low, high = paired_outcomes(first.astype(float).tolist(), second.astype(float).tolist()).ci95
        covered += low <= 0 <= high
    assert 0.94 <= covered / rounds <= 0.995


def test_a_lost_trial_hides_no_failed_one() -> None:
    # b lost two of four trials, and failed the others: not all of its four trials succeed.
    assert pass_hat_k([[True] * 4, [False, False]], 4).mean == 0.5
    outcomes = [[True] * 4, [False] * 2, [False] * 3, [True] * 2]
    rates = [pass_hat_k(outcomes, k).mean for k in (1, 2, 4)]
    assert rates == sorted(rates, reverse=True)
    assert pass_hat_k(outcomes, 4).n == 3  # the task whose two trials succeeded is left out


def test_pairing_removes_what_tasks_share() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.normal(size=100)
    first = {str(i): [float(d + 0.3 + 0.1 * rng.normal())] for i, d in enumerate(difficulty)}
    second = {str(i): [float(d + 0.1 * rng.normal())] for i, d in enumerate(difficulty)}
    paired = paired_difference(first, second)
    assert paired.low > 0.25
    assert paired.high < 0.35
    one, two = mean_interval([v[0] for v in first.values()]), mean_interval([v[0] for v in second.values()])
    assert one.low < two.high  # the separate intervals overlap and would have shown nothing


def test_the_mean_over_trials_weighs_every_trial() -> None:
    # Mean 2; tasks' sums less n times the mean: -1, -1, 2; SE = sqrt(3/2 * 6) / 6 = 0.5; t of two degrees is 4.3027.
    estimate = mean_over_trials([[1.0, 2.0], [1.0], [], [2.0, 2.0, 4.0]])
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.ci95 == pytest.approx((2 - 4.302653 / 2, 2 + 4.302653 / 2), rel=1e-6)


def test_the_mean_over_trials_is_the_mean_over_tasks_where_all_have_as_many() -> None:
    values = [[1.0, 0.0], [0.5, 0.7], [0.1, 0.9]]
    over_trials, over_tasks = mean_over_trials(values), clustered_mean(values)
    assert (over_trials.mean, *over_trials.ci95) == pytest.approx((over_tasks.mean, *over_tasks.ci95))


def test_the_mean_over_trials_of_one_task_has_no_interval() -> None:
    assert mean_over_trials([[1.0, 3.0]]) == Estimate(2.0, -inf, inf, 1)
    assert isnan(mean_over_trials([[]]).mean)


def test_one_seed_a_side_has_the_interval_of_paired_tasks() -> None:
    first, second = {"a": [1.0], "b": [1.0], "c": [0.0]}, {"a": [0.0], "b": [1.0], "c": [0.0], "d": [1.0]}
    assert paired_over_seeds([first], [second]) == paired_difference(first, second)


def first_of(share: int, of: int) -> dict[str, list[float]]:
    """Outcomes of tasks of which the first ones succeed."""
    return {str(task): [float(task < share)] for task in range(of)}


def test_seeds_that_disagree_widen_the_interval() -> None:
    """By hand: seeds at 0 and 0.1, so the variance between seeds is 0.005, of their mean 0.0025, with one degree of
    freedom. That between tasks is 0.00023, and as much is subtracted for single cells."""
    found = paired_over_seeds([first_of(0, 100), first_of(10, 100)], [first_of(0, 100)] * 2, same_seeds=True)
    assert (found.mean, found.n) == (pytest.approx(0.05), 100)
    assert found.ci95 == pytest.approx((0.05 - 12.7062 * 0.05, 0.05 + 12.7062 * 0.05), abs=1e-4)


def test_pairs_of_seeds_remove_what_the_seeds_share() -> None:
    """Each seed solves other tasks, and the first side 10 more of them."""
    first = [first_of(share + 10, 100) for share in (10, 50, 80)]
    second = [first_of(share, 100) for share in (10, 50, 80)]
    paired, apart = paired_over_seeds(first, second, same_seeds=True), paired_over_seeds(first, second)
    assert paired.mean == pytest.approx(apart.mean) == pytest.approx(0.1)
    assert paired.low > 0
    assert apart.low < -0.5


def test_seeds_that_all_agree_have_an_interval_of_some_width() -> None:
    found = paired_over_seeds([first_of(8, 8)] * 2, [first_of(0, 8)] * 2, same_seeds=True)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low < 0.9


def test_the_interval_over_seeds_covers() -> None:
    """Rates vary over seeds and tasks; the true difference lies in at least nine of ten intervals."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        rates = (rng.normal(0.5, 0.1, (3, 1)) + rng.normal(0, 0.2, (1, 30))).clip(0, 1)
        first = [{str(t): [x] for t, x in enumerate(row)} for row in rng.binomial(1, rates).tolist()]
        second = [{str(t): [x] for t, x in enumerate(row)} for row in rng.binomial(1, 0.5, (3, 30)).tolist()]
        found = paired_over_seeds(first, second)
        hits += found.low <= 0 <= found.high
    assert hits >= 180


def test_a_difference_of_several_trials_is_no_surer_than_the_tasks_differences() -> None:
    rng = np.random.default_rng(3)
    wider = 0
    for _ in range(40):
        chances = rng.beta(4, 1, size=5)
        first, second = ([rng.random(10) < c for c in (chances, chances * rng.choice([1, 0.6], 5))[i]] for i in (0, 1))
        one, other = ([[float(v) for v in trials] for trials in side] for side in (first, second))
        found = paired_outcomes(one, other)
        of_tasks = clustered_mean([[float(np.mean(a) - np.mean(b))] for a, b in zip(one, other, strict=True)])
        assert found.low <= max(of_tasks.low, -1) + 1e-12
        assert found.high >= min(of_tasks.high, 1) - 1e-12
        wider += found.high > of_tasks.high + 1e-9
    assert 0 < wider < 40
