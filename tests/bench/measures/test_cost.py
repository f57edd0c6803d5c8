"""Costs by hand, the table of prices, and a budget that stops a benchmark and lets it go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.bench.measures.cost import CostUSD, Price, price_of
from agentrl.bench.runner import run_bench
from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.messages import Action
from agentrl.trajectory import EnvRef, Task, Trajectory, Turn
from tests.bench.toys import Adder, Some

PRICES = """
[big]
input = 2.0
cached_input = 0.5
output = 8.0
[small]
input = 0.1
output = 0.4
"""


def episode(*usages: dict[str, int] | None) -> Trajectory:
    turns = [Turn((), Action(usage=usage)) for usage in usages]
    return Trajectory(EnvRef("e"), Task("t"), 0, turns)


def test_the_cost_by_hand() -> None:
    played = episode(
        {"prompt_tokens": 1000, "cached_tokens": 0, "completion_tokens": 10},
        {"prompt_tokens": 1500, "cached_tokens": 1000, "completion_tokens": 20},
    )
    # 1,500 read anew, 1,000 read again, 30 sampled.
    assert Price(2.0, 8.0, 0.5).of(played) == pytest.approx((1500 * 2 + 1000 * 0.5 + 30 * 8) / 1e6)
    assert Price(2.0, 8.0).of(played) == pytest.approx((2500 * 2 + 30 * 8) / 1e6)


def test_a_cost_that_is_not_known_is_left_out_of_the_mean() -> None:
    known = episode({"prompt_tokens": 100, "completion_tokens": 10})
    estimate = CostUSD(Price(1.0, 1.0))([known, episode(None)])
    assert (estimate.mean, estimate.n) == (pytest.approx(110e-6), 1)


def test_the_table_of_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    assert price_of(path, "openai:big") == Price(2.0, 8.0, 0.5)
    assert price_of(path, "small") == Price(0.1, 0.4)
    with pytest.raises(ConfigError, match="no price of 'bigg'"):
        price_of(path, "openai:bigg")
    path.write_text("[big]\ninput = -1\noutput = 2\n")
    with pytest.raises(ConfigError, match="input"):
        price_of(path, "openai:big")


def test_a_budget_stops_the_benchmark_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    price, one = Price(1.0, 10.0), (14 + 10 * 10) / 1e6  # 14 tokens read and 10 sampled in each episode
    budget = {"price": price, "max_concurrency": 1, "references": False, "out": tmp_path / "b"}
    first = run_bench(Adder, Some(), budget_usd=2.5 * one, **budget)
    assert first.status == "interrupted"
    assert first.score.n_episodes == 3
    assert first.cost_usd == pytest.approx(3 * one)
    assert json.loads((tmp_path / "b" / "summary.json").read_text())["cost_usd"] == pytest.approx(3 * one)
    nothing = run_bench(Adder, again := Some(), budget_usd=2.5 * one, **budget)
    assert (nothing.score.n_episodes, again.asked) == (3, [])
    rest = run_bench(Adder, Some(), budget_usd=100 * one, **budget)
    assert (rest.status, rest.score.n_episodes) == ("finished", 8)
    assert rest.cost_usd == pytest.approx(8 * one)
    assert rest.score.measures["cost_usd"].estimate.mean == pytest.approx(one)


def test_a_budget_needs_prices() -> None:
    with pytest.raises(ValueError, match="needs a price"):
        run_bench(Adder, Some(), budget_usd=1.0)


def test_without_prices_there_is_no_cost() -> None:
    result = run_bench(Adder, Some(), num_tasks=1, references=False)
    assert result.cost_usd is None
    assert "cost_usd" not in result.score.measures


def test_the_command_shows_the_cost_and_refuses_an_unknown_model(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[oracle]\ninput = 1.0\noutput = 1.0\n")
    common = ("bench", "agentrl/Guess-v0", "--tasks", "2", "--prices", str(path))
    shown = CliRunner().invoke(main, [*common, "--policy", "oracle", "--out", str(tmp_path / "o")])
    assert shown.exit_code == 0, shown.output
    assert "cost: 0 USD for 2 episodes" in shown.stdout  # a script samples no tokens
    refused = CliRunner().invoke(main, [*common, "--policy", "null", "--out", str(tmp_path / "n")])
    assert refused.exit_code == 1
    assert "no price of 'null'" in refused.stderr


def test_tokens_that_are_kept_for_later_have_a_price_of_their_own() -> None:
    played = episode({"prompt_tokens": 1000, "cached_tokens": 600, "cache_write_tokens": 300, "completion_tokens": 10})
    # 100 read, 600 read again, 300 kept, 10 sampled.
    assert Price(2.0, 8.0, 0.5, 2.5).of(played) == pytest.approx((100 * 2 + 600 * 0.5 + 300 * 2.5 + 10 * 8) / 1e6)
    assert Price(2.0, 8.0).of(played) == pytest.approx((1000 * 2 + 10 * 8) / 1e6)


def test_a_budget_without_prices_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["bench", "agentrl/Shop-v0", "--budget-usd", "1"])
    assert result.exit_code == 2
    assert "--budget-usd needs --prices FILE" in result.output
