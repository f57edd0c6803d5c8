"""Suites: the file, the folder, the mean over environments, what is missing, and two of them compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.cost import Price
from agentrl.bench.runner import run_bench
from agentrl.bench.suites.comparison import compare_suites
from agentrl.bench.suites.suite import Spending, load_suite, run_suite, weighted_mean
from agentrl.cli import main
from agentrl.errors import ConfigError, EnvNotFound
from agentrl.policy.by_name import PolicySetup
from tests.policy.remote.fault_server import FaultServer

SUITE = """
trials = 2
[envs.guess]
id = "agentrl/Guess-v0"
num_tasks = 4
weight = 3.0
[envs.sums]
id = "agentrl/Calculator-v0"
num_tasks = 3
trials = 1
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


def test_each_environment_is_a_benchmark_of_its_own(suite_file: Path, tmp_path: Path) -> None:
    result = run_suite(load_suite(suite_file), "oracle", tmp_path / "out")
    assert result.status == "finished"
    assert [(name, r.score.n_tasks, r.score.n_planned) for name, r in result.results.items()] == [
        ("guess", 4, 8),
        ("sums", 3, 3),
    ]
    alone = run_bench("agentrl/Guess-v0", "oracle", num_tasks=4, trials=2, references=False)
    assert result.results["guess"].score.headline == alone.score.headline
    written = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert written["mean"]["mean"] == 1.0
    assert written["lowest"]["env"] == "guess"
    assert (tmp_path / "out" / "sums" / "trajectories.jsonl").exists()


def test_the_mean_weighs_environments_and_its_interval_is_worked_by_hand() -> None:
    found = {"a": Estimate(0.8, 0.6, 0.9, 10), "b": Estimate(0.4, 0.1, 0.6, 5)}
    mean = weighted_mean(found, {"a": 3.0, "b": 1.0})
    assert mean.mean == pytest.approx(0.7)
    assert mean.low == pytest.approx(0.7 - math.hypot(0.75 * 0.2, 0.25 * 0.3))
    assert mean.high == pytest.approx(0.7 + math.hypot(0.75 * 0.1, 0.25 * 0.2))


def test_a_second_call_plays_only_what_is_missing(suite_file: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    first = run_suite(load_suite(suite_file), "oracle", out)
    more = load_suite(suite_file, ["envs.sums.num_tasks=5"])
    again = run_suite(more, "oracle", out, on_progress=lambda name, done, total, episode: told.append(name))
    assert set(told) == {"sums"}
    assert again.results["guess"].score.headline == first.results["guess"].score.headline
    assert again.results["sums"].score.n_tasks == 5


def test_an_environment_that_cannot_be_played_stops_no_other_and_there_is_no_mean(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text('[envs.few]\nid = "agentrl/Guess-v0"\nnum_tasks = 100000\n' + SUITE.partition("trials = 2")[2])
    result = run_suite(load_suite(path), "oracle", tmp_path / "out")
    assert result.status == "failed"
    assert "100000 wanted: ask for fewer" in result.errors["few"]
    assert set(result.results) == {"guess", "sums"}
    assert result.mean is None


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", ConfigError, "envs"),
        ("[envs]\n", ConfigError, r"\[envs.NAME\] with id"),
        ('[envs."a/b"]\nid = "agentrl/Guess-v0"\n', ConfigError, "letters, digits"),
        ('[envs.a]\nid = "agentrl/Gues-v0"\n', EnvNotFound, r"suite\.toml, \[envs\.a\]: .*Guess-v0"),
        ('[envs.a]\nid = "agentrl/Guess-v0"\nnum_task = 3\n', ConfigError, "num_tasks"),
        ('[envs.a]\nid = "agentrl/Guess-v0"\nweight = 0\n', ConfigError, "more than 0"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        load_suite(path)


def test_a_folder_of_something_else_stays_as_it_is(suite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files, but no suite"):
        run_suite(load_suite(suite_file), "oracle", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_two_suites_are_compared_environment_by_environment(suite_file: Path, tmp_path: Path) -> None:
    suite = load_suite(suite_file)
    for policy in ("oracle", "null"):
        run_suite(suite, policy, tmp_path / policy)
    found = compare_suites(tmp_path / "oracle", tmp_path / "null")
    assert list(found.envs) == ["guess", "sums"]
    assert found.mean.mean == 1.0
    assert found.adjusted == {"guess": 2 / 2**4, "sums": 1 / 2**3}
    with pytest.raises(ConfigError, match="no common unit"):
        compare_suites(tmp_path / "oracle", tmp_path / "null", "reward")


def test_the_commands(suite_file: Path, tmp_path: Path) -> None:
    def run(*arguments: str):
        return CliRunner().invoke(main, list(arguments))

    for policy in ("oracle", "null"):
        out = str(tmp_path / policy)
        result = run("bench", str(suite_file), "--policy", policy, "--out", out, "--set", "references=false")
        assert result.exit_code == 0, result.output
    shown = run("bench", str(suite_file), "--policy", "oracle", "--out", str(tmp_path / "oracle")).stdout
    assert "weighted mean" in shown
    assert "lowest: guess" in shown
    compared = run("compare", str(tmp_path / "oracle"), str(tmp_path / "null"), "--max-drop", "0.5")
    assert compared.exit_code == 1
    assert "oracle minus null" in compared.stdout
    assert "more than 0.5" in compared.stderr
    assert "--set trials=4" in run("bench", str(suite_file), "--trials", "4").stderr
    assert "--set goes with a suite" in run("bench", "agentrl/Guess-v0", "--set", "a=1").stderr


def test_a_budget_of_a_suite_is_that_of_all_its_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = tmp_path / "suite.toml"
    envs = "".join(f'[envs.{name}]\nid = "tests/bench/toys.py:Adder"\nnum_tasks = 4\n' for name in ("a", "b", "c"))
    path.write_text("references = false\nmax_concurrency = 1\n" + envs)
    suite, out = load_suite(path), tmp_path / "out"
    # An episode reads 22 tokens and samples 6: 28 USD at this price, 112 an environment.
    price = Price(1e6, 1e6)
    with FaultServer("anthropic", {}) as server:
        setup = PolicySetup(server.url)
        first = run_suite(suite, "anthropic:bot", out, setup=setup, spending=Spending(price, 150.0))
        assert (first.status, set(first.results)) == ("interrupted", {"a", "b"})
        assert first.cost_usd == 112 + 2 * 28  # the episode that goes over the budget ends
        assert first.mean is None
        again = run_suite(suite, "anthropic:bot", out, setup=setup, spending=Spending(price, 1000.0))
        assert (again.status, again.cost_usd, len(server.arrivals)) == ("finished", 3 * 112, 24)
        assert json.loads((out / "suite.json").read_text())["cost_usd"] == 336
        prices = tmp_path / "prices.toml"
        prices.write_text("[bot]\ninput = 1e6\noutput = 1e6\n")
        words = ["bench", str(path), "--policy", "anthropic:bot", "--base-url", server.url, "--prices", str(prices)]
        spent = CliRunner().invoke(main, [*words, "--budget-usd", "150", "--out", str(tmp_path / "third")])
        assert spent.exit_code == 130
        assert "The budget of 150 USD is spent (168 USD)." in spent.stderr
        assert "a larger --budget-usd plays what is missing" in spent.stderr
