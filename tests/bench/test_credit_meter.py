"""The credit meter against advantages in closed form, figures worked out by hand, and the command."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from agentrl.bench.credit_meter.figures import Figures, figures_of, spearman
from agentrl.bench.credit_meter.meter import ESTIMATORS, CreditReport, measure_credit
from agentrl.bench.credit_meter.points import Point
from agentrl.bench.credit_meter.samples import MeterSettings, play
from agentrl.errors import ConfigError, EnvFault, RolloutError
from agentrl.rollout.runner import Rollouts

FILE = Path(__file__).parents[2] / "benchmarks" / "credit_chain.py"
SPEC = importlib.util.spec_from_file_location("credit_chain", FILE)
assert SPEC is not None
assert SPEC.loader is not None
CHAIN = importlib.util.module_from_spec(SPEC)
sys.modules["credit_chain"] = CHAIN
SPEC.loader.exec_module(CHAIN)
SMALL = MeterSettings(group_size=4, continuations=16, draws=4)
UNBIASED = ("reinforce", "rloo", "remax", "forked")


@pytest.fixture(scope="module")
def exact() -> dict[str, Figures]:
    found = measure_credit(
        lambda: CHAIN.Chain(3),
        CHAIN.Coin(),
        num_tasks=40,
        estimators=(*UNBIASED, "dr_grpo", "gigpo"),
        settings=SMALL,
        seed=2,
        truth=CHAIN.exact,
    )
    return {row.name: row for row in found.rows}


@pytest.fixture(scope="module")
def report() -> CreditReport:
    return measure_credit(lambda: CHAIN.Chain(3), CHAIN.Coin(), num_tasks=30, settings=SMALL, seed=5)


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators_are_found_to_be_unbiased(exact: dict[str, Figures], name: str) -> None:
    found = exact[name]
    assert (
        abs(found.scale.value - 1) <= 3 * found.scale.error
    )  # one in 20 is more than two standard errors off by chance
    assert found.scale.error < 0.15  # so that a bias of half would be seen


def test_a_known_bias_is_found(exact: dict[str, Figures]) -> None:
    """Dr. GRPO's mean holds the episode itself: it is RLOO times (G - 1) / G."""
    assert exact["dr_grpo"].scale.value == pytest.approx(exact["rloo"].scale.value * 3 / 4)
    assert not exact["gigpo"].is_unbiased  # two advantages are added, each over a standard deviation


def test_the_episodes_return_says_less_of_a_turn_than_forked_credit(exact: dict[str, Figures]) -> None:
    assert exact["forked"].error.value < exact["rloo"].error.value
    assert exact["forked"].tokens > exact["rloo"].tokens == 1.0


async def test_measured_advantages_agree_with_the_closed_form() -> None:
    settings = replace(SMALL, continuations=64)
    async with Rollouts(lambda: CHAIN.Chain(3), CHAIN.Coin(), env_id="chain") as rollouts:
        samples = await play(rollouts, CHAIN.Chain.tasks.split("train")[:20], settings, 1)
    found = [
        (s.advantage(turn, fold), CHAIN.exact(s.episode, turn)) for s in samples for turn in s.turns for fold in (0, 1)
    ]
    measured, true = np.array(found).T
    assert np.mean(measured - true) == pytest.approx(0.0, abs=0.05)
    assert np.sqrt(np.mean((measured - true) ** 2)) < 0.2
    assert np.corrcoef(measured, true)[0, 1] > 0.9


def test_the_closed_form_is_a_mean_of_zero_under_the_policy() -> None:
    for left in (1, 2, 3):
        right = CHAIN.STEP + CHAIN.value(True, left - 1) - CHAIN.value(True, left)
        wrong = 0.0 - CHAIN.value(True, left)
        assert CHAIN.RIGHT * right + (1 - CHAIN.RIGHT) * wrong == pytest.approx(0.0)


def test_without_the_closed_form_the_same_estimators_are_unbiased(report: CreditReport) -> None:
    found = {row.name: row for row in report.rows}
    assert all(abs(found[name].scale.value - 1) <= 3 * found[name].scale.error for name in UNBIASED)
    assert not found["dr_grpo"].is_unbiased or found["dr_grpo"].scale.value < 0.95
    assert found["rloo"].points == report.num_tasks * 3 == 90
    assert report.num_tokens >= report.num_episodes  # one token a turn
    costs = [row.cost for row in report.rows if math.isfinite(row.cost)]
    assert costs == sorted(costs)


def test_the_report_is_text_and_json(report: CreditReport) -> None:
    text = report.to_text()
    assert all(f"| {name} |" in text for name in ESTIMATORS)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["estimators"][0]["name"] == report.rows[0].name
    assert document["settings"]["group_size"] == 4


def point(truth: tuple[float, float], estimates: Any, of_state: Any, task: int) -> Point:
    return Point(task, np.array(truth), np.array(estimates), np.array(of_state), 2.0)


def test_figures_by_hand() -> None:
    # Estimates are twice the truth plus 1, which the state alone gives; one of two draws is 1 more, the other 1 less.
    truths = [1.0, -1.0, 3.0, -3.0]
    points = [
        point((t, t), [[2 * t + 2, 2 * t], [2 * t, 2 * t + 2]], [[1, 1], [1, 1]], n) for n, t in enumerate(truths)
    ]
    found = figures_of("it", points)
    assert found.scale.value == pytest.approx(2.0)
    assert found.bias.value == pytest.approx(0.0)
    assert found.noise.value == pytest.approx(math.sqrt(2.0 / 5.0) / 2)  # variance 2 of the draws, mean square 5
    assert found.error.value == pytest.approx((0.5**2 + 0.5**2) / 5.0)  # the state's half and the draw's half
    assert found.rank.value == pytest.approx(1.0)
    assert found.cost == pytest.approx(found.error.value * 2.0)
    assert not found.is_unbiased


def test_noise_of_the_truth_counts_neither_as_power_nor_as_error() -> None:
    rng = np.random.default_rng(0)
    truths = rng.normal(size=4000)
    points = []
    for n, t in enumerate(truths):
        seen = t + rng.normal(size=2)
        estimates = np.full((2, 2), t)
        points.append(point((seen[0], seen[1]), estimates, np.zeros((2, 2)), n % 40))
    found = figures_of("it", points)
    assert found.scale.value == pytest.approx(1.0, abs=0.1)
    assert found.error.value == pytest.approx(0.0, abs=0.1)
    assert found.bias.value == pytest.approx(0.0, abs=0.3)


def test_ranks_share_their_mean() -> None:
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([5.0, 5.0, 9.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    assert spearman(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(spearman(np.ones(3), np.arange(3.0)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"continuations": 11}, "at least 12"), ({"draws": 3}, "4 or more"), ({"group_size": 1}, "2 or more")],
)
def test_too_little_play_is_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MeterSettings(**settings)


def test_estimators_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ConfigError, match="'turn_gae' needs a value head"):
        measure_credit(CHAIN.Chain, CHAIN.Coin(), estimators=["turn_gae"])
    with pytest.raises(ConfigError, match="no estimators"):
        measure_credit(CHAIN.Chain, CHAIN.Coin(), estimators=[])


def test_a_policy_that_always_does_the_same_is_said() -> None:
    class Sure(CHAIN.Coin):  # type: ignore[name-defined,misc]
        async def act(self, *args: Any, **kwargs: Any) -> Any:
            return structs.replace(await super().act(*args, **kwargs), text="right")

    found = measure_credit(lambda: CHAIN.Chain(3), Sure(), num_tasks=2, settings=SMALL)
    assert found.notes == (
        "the true advantages cannot be told from 0: every action is about as good, or the play too short",
    )
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {row["unbiased"] for row in document["estimators"]} == {None}
    assert "| rloo | - | - |" in found.to_text()


def test_faults_that_leave_too_few_episodes_leave_the_task_out() -> None:
    class Lossy(CHAIN.Chain):  # type: ignore[name-defined,misc]
        def start(self, task: Any) -> Any:
            if task.data["n"] == 0:
                raise EnvFault("this task's server is gone")
            return super().start(task)

    found = measure_credit(lambda: Lossy(2), CHAIN.Coin(), num_tasks=3, settings=SMALL)
    assert found.num_tasks == 2
    with pytest.raises(RolloutError):
        measure_credit(lambda: Lossy(2), CHAIN.Coin(), num_tasks=1, settings=SMALL)
