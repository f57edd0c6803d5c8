"""Measures of predicted numbers against scikit-learn, scipy and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import energy_distance, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from agentrl.bench.measures.by_name import measure, measures_of
from agentrl.rollout.predictions import crps, prediction_of
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory
from tests.bench.measures.episodes import FAULT, episode

NAMES = ["rmse", "mae", "r2", "spearman", "crps", "coverage", "interval_width", "no_number"]
AGGREGATES = {"mean": np.mean, "median": np.median}


def predicted(task: str, target: float, *values: float) -> list[Trajectory]:
    return [episode(task, info={"target": target, "prediction": value}) for value in values]


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, list[Trajectory]]:
    """(N,) targets, (N, 7) predictions with ties, and their episodes."""
    rng = np.random.default_rng(5)
    targets = rng.normal(size=40).round(1)
    samples = (targets[:, None] + rng.normal(size=(40, 7))).round(1)
    return targets, samples, [e for i in range(40) for e in predicted(f"t{i}", targets[i], *samples[i])]


def references(targets: np.ndarray, values: np.ndarray) -> dict[str, float]:
    return {
        "rmse": root_mean_squared_error(targets, values),
        "mae": mean_absolute_error(targets, values),
        "r2": r2_score(targets, values),
        "spearman": float(spearmanr(targets, values).statistic),
    }


def test_single_answers_equal_the_references(drawn) -> None:
    targets, samples, episodes = drawn
    for name, expected in references(np.repeat(targets, 7), samples.ravel()).items():
        assert measure(name).value(episodes) == pytest.approx(expected, abs=1e-12)
        assert measure(name)(episodes).mean == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_aggregated_answers_equal_the_references(aggregate, drawn) -> None:
    targets, samples, episodes = drawn
    for name, expected in references(targets, AGGREGATES[aggregate](samples, axis=1)).items():
        assert measure(f"{name}:{aggregate}").value(episodes) == pytest.approx(expected, abs=1e-12)


def test_the_mode_is_the_most_frequent_answer() -> None:
    episodes = [*predicted("a", 0.0, 3, 5, 5, 9), *predicted("b", 0.0, 1, 1, 4, 4, 5), *predicted("c", 0.0, 2)]
    # Of 1 and 4, which are as frequent, 4 is nearer to the median, 4.
    assert measure("mae:mode").value(episodes) == pytest.approx((5 + 4 + 2) / 3)
    assert measure("mae:mode").value(predicted("d", 0.0, 1, 3)) == 1.0  # both are as near: the smaller


def test_crps_equals_the_energy_distance_of_scipy(drawn) -> None:
    """Half of the squared energy distance to a point is the CRPS with all pairs; the fair one has different samples."""
    targets, samples, episodes = drawn
    expected = []
    for target, of_task in zip(targets, samples, strict=True):
        all_pairs = energy_distance(of_task, [target]) ** 2 / 2
        error = np.abs(of_task - target).mean()
        expected.append(error - (error - all_pairs) * 7 / 6)
        assert crps(of_task, target) == pytest.approx(expected[-1], abs=1e-9)
    assert measure("crps").value(episodes) == pytest.approx(np.mean(expected), abs=1e-9)


def test_crps_by_hand() -> None:
    assert crps([1.0, 3.0], 2.0) == 1.0 - 2.0 / 2
    assert crps([1.0, 1.0, 4.0], 1.0) == pytest.approx(1.0 - (3 + 3) / 3 / 2)
    assert crps([5.0], 2.0) == 3.0
    assert math.isnan(crps([], 2.0))


def test_the_fair_crps_does_not_depend_on_the_number_of_samples() -> None:
    """Its mean over draws is the CRPS of the distribution: here 3/8 - 3/16 for 0 or 1, and a target of 0."""
    rng = np.random.default_rng(0)
    for count in (2, 5):
        draws = (rng.random((20_000, count)) < 0.25).astype(float)
        assert np.mean([crps(draw, 0.0) for draw in draws]) == pytest.approx(0.25 - 0.25 * 0.75, abs=0.005)


def test_the_interval_is_between_quantiles_ends_included() -> None:
    inside, outside = predicted("a", 1.0, *range(11)), predicted("b", 0.9, *range(11))
    assert measure("coverage:0.8").value([*inside, *outside]) == 0.5
    assert measure("coverage").name == measure("coverage:0.8").name == "coverage"
    assert measure("coverage:0.5").name == "coverage:0.5"
    assert measure("interval_width:0.8").value([*inside, *outside]) == pytest.approx(8.0)
    assert measure("interval_width:0.5").value(inside) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        measure("coverage:1.5")


def test_an_interval_over_tasks_surrounds_the_statistic(drawn) -> None:
    found = measure("rmse")(drawn[2])
    assert found.low < found.mean < found.high
    assert found.n == 40
    assert (found.high - found.low) / found.mean < 0.6


def test_what_is_not_known_is_not_a_number() -> None:
    for one in measures_of(NAMES):
        assert math.isnan(one.value([]))
        assert math.isnan(one([episode("other")]).mean)
    one = predicted("a", 1.0, 2.0)
    assert math.isnan(measure("r2").value(one))
    assert math.isnan(measure("spearman").value([*one, *predicted("b", 2.0, 2.0)]))


def test_faults_are_left_out_and_errors_of_the_model_are_not() -> None:
    task = Task("a", "eval", {"target": 3.0, "worst": 10.0})
    failed, fault = (Trajectory(EnvRef("x"), task, 0, [], ending) for ending in (Ending("error", "refused"), FAULT))
    assert prediction_of(failed).value == 10.0
    assert measure("mae").value([failed, fault, *predicted("a", 3.0, 4.0)]) == 4.0


def test_answers_without_a_number_are_counted() -> None:
    told = {"target": 1.0, "prediction": 9.0, "is_number": False}
    episodes = [
        *predicted("a", 1.0, 2.0, 3.0, 4.0),
        episode("a", info=told),
        episode("other"),
        episode("a", ending=FAULT),
    ]
    assert measure("no_number").value(episodes) == 0.25
    assert measure("mae").value(episodes) == (1 + 2 + 3 + 8) / 4


NO_NUMBERS = ["a lot", "nan", "1e999", None, [1.0], {}, math.nan, math.inf, -math.inf, 10**400, np.array([1.0, 2.0])]


@pytest.mark.parametrize("said", NO_NUMBERS, ids=repr)
def test_a_prediction_that_is_no_number_ends_no_benchmark_and_is_no_way_out_of_a_bad_score(said) -> None:
    """An environment may put the model's own words into its info; they are read when all episodes have been played."""
    info = {"target": 3.0, "prediction": said}
    episodes = [*predicted("a", 3.0, 3.0), *predicted("b", 5.0, 6.0), episode("c", info=info)]
    for one in measures_of(NAMES):
        found = one(episodes)
        assert math.isnan(found.mean) or found.low <= found.mean <= found.high, one.name
    assert measure("mae").value(episodes) == measure("crps").value(episodes) == math.inf
    assert measure("no_number").value(episodes) == 1 / 3
    task = Task("c", "eval", {"worst": 10.0})
    known = Trajectory(EnvRef("x"), task, 0, [], Ending("answer"), info=info)
    assert prediction_of(known).value == 10.0


@pytest.mark.filterwarnings("error")
def test_numbers_whose_squares_are_infinite_are_measured_without_a_warning() -> None:
    episodes = [*predicted("a", 3.0, 1e308, math.inf), *predicted("b", 5.0, -1e308)]
    assert all(one(episodes).n in (2, 3) for one in measures_of(NAMES))


def test_a_number_that_is_written_out_is_one() -> None:
    info = {"target": 3.0, "prediction": " 4.5 ", "scale": "none"}
    assert prediction_of(episode("a", info=info)).value == 4.5
    assert prediction_of(episode("a", info=info)).scale == 1.0
