"""Success, reward and pass rates against numbers worked out by hand."""

from __future__ import annotations

import pytest

from agentrl.bench.estimates import clustered_proportion
from agentrl.bench.measures.success import Component, PassAt, PassHat, Reward, Success, SuccessOfAttempted
from agentrl.messages import Action
from agentrl.trajectory import Ending
from tests.bench.measures.episodes import FAULT, episode, turn

# Task a: 2 of 3 succeed. Task b: 1 of 1, and a fault. Task c: a fault alone.
EPISODES = [
    *(episode("a", reward=reward) for reward in (1.0, 1.0, 0.5)),
    episode("b", reward=1.0),
    episode("b", reward=1.0, ending=FAULT),
    episode("c", ending=FAULT),
]


def test_success_weighs_tasks_equally_and_leaves_faults_out() -> None:
    estimate = Success()(EPISODES)
    assert (estimate.mean, estimate.n) == (pytest.approx((2 / 3 + 1) / 2), 2)


def test_the_interval_is_that_of_tasks() -> None:
    estimate = Success()([episode("a", reward=1.0), episode("b"), episode("c", reward=1.0)])
    assert estimate.ci95 == pytest.approx(clustered_proportion([[1.0], [1.0], [0.0]]).ci95)


def test_reward_is_a_mean_over_tasks() -> None:
    estimate = Reward()(EPISODES)
    means = (2.5 / 3, 1.0)
    half = 12.706205 * (means[1] - means[0]) / 2  # t of one degree of freedom; the standard error of two values
    assert (estimate.mean, estimate.n) == (pytest.approx(sum(means) / 2), 2)
    assert estimate.ci95 == pytest.approx((estimate.mean - half, estimate.mean + half), rel=1e-6)


def test_an_episode_without_a_component_counts_as_zero() -> None:
    with_part = episode("a", turn(Action(), reward_components={"style": 0.5}), turn(Action()))
    measure = Component("style")
    assert (measure.name, measure([with_part, episode("a"), episode("b")]).mean) == ("component:style", 0.125)


def test_pass_rates() -> None:
    trials = [episode("a", reward=r) for r in (1.0, 1.0, 0.0, 0.0)] + [episode("b", reward=1.0)]
    assert (PassAt(2).name, PassHat(2).name) == ("pass_at:2", "pass_hat:2")
    assert PassAt(1)(trials).mean == pytest.approx((2 / 4 + 1) / 2)
    assert (PassAt(2)(trials).mean, PassAt(2)(trials).n) == (pytest.approx(1 - 1 / 6), 1)  # b has one trial alone
    assert PassHat(2)(trials).mean == pytest.approx(1 / 6)
    assert PassAt(3)(trials).mean == 1.0
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        PassAt(0)


def test_the_success_of_attempted_counts_discarded_episodes_as_failures() -> None:
    episodes = [episode("a", reward=1.0), episode("a", ending=FAULT), episode("b", ending=FAULT)]
    assert Success()(episodes).mean == 1.0
    attempted = SuccessOfAttempted()(episodes)
    assert (attempted.mean, attempted.n) == (0.25, 2)
    assert attempted.low > 0
    assert SuccessOfAttempted().values_by_task(episodes) == {"a": [1.0, 0.0], "b": [0.0]}


def test_an_error_of_the_models_doing_is_a_failure() -> None:
    filtered = episode("a", reward=1.0, ending=Ending("error", "content_filter"))
    assert Success()([filtered]).mean == 0.0
