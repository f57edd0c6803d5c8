"""`agentrl credit`: the table, JSON, and what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.training.plan import TrainConfig
from agentrl.training.train import train

FILE = Path(__file__).parents[2] / "benchmarks" / "credit_chain.py"
FEW = ("--tasks", "2", "--group-size", "2", "--continuations", "8", "--forks", "1", "--draws", "4")


def credit(*arguments: str, policy: str = f"{FILE}:Coin") -> Result:
    return CliRunner().invoke(main, ["credit", f"{FILE}:Chain", "--policy", policy, *FEW, *arguments])


def test_the_table() -> None:
    result = credit("--estimators", "rloo, forked")
    assert result.exit_code == 0, result.output
    rows = [line.split(" | ")[0] for line in result.stdout.splitlines() if line.startswith("| ")]
    assert sorted(rows) == ["| estimator", "| forked", "| rloo"]
    assert "2 tasks, 10 turns" in result.stdout
    assert "Playing" in result.stderr


def test_the_json_form() -> None:
    found = json.loads(credit("--json", "--estimators", "rloo").stdout)
    assert found["estimators"][0]["name"] == "rloo"
    assert found["settings"] == {"group_size": 2, "continuations": 8, "draws": 4, "forks": 1, "most_turns": 8}
    assert found["policy"] == f"{FILE}:Coin"
    assert json.loads(credit("--json", "--estimators", "rloo").stdout)["estimators"] == found["estimators"]


@pytest.mark.parametrize(
    ("arguments", "policy", "said"),
    [
        ((), "oracle", "always does the same"),
        (("--estimators", "gropo"), f"{FILE}:Coin", "Did you mean"),
        (("--estimators", "turn_gae"), f"{FILE}:Coin", "needs a value head"),
        (("--continuations", "7"), f"{FILE}:Coin", "at least 8"),
        (("--split", "trian"), f"{FILE}:Coin", "trian"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], policy: str, said: str) -> None:
    result = credit(*arguments, policy=policy)
    assert result.exit_code == 1, result.output
    assert said in result.stderr


def test_curves_train_the_measured_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both estimators until they have sampled their tokens; the same command computes nothing again."""
    monkeypatch.chdir(Path(__file__).parents[2])
    env = "tests.training.stages.conftest:Agree"
    copy = ["stages.copy.kind=supervise", "stages.copy.demonstrators={yes=0.5, no=0.5}", "stages.copy.num_episodes=64"]
    small = ["model.hidden_size=32", "model.num_layers=1", "run.tensorboard=false", "sampling.max_tokens=6"]
    warm = TrainConfig.of(tomllib.loads("\n".join([f'env.id="{env}"', *small, *map(_quoted, copy)])))
    train(warm, tmp_path / "warm")
    command = ["credit", env, "--policy", f"local:{tmp_path / 'warm' / 'model'}", *FEW, "--estimators", "grpo,rloo"]
    command += ["--curves", "300", "--max-tokens", "5", "--seeds", "0,1", "--out", str(tmp_path / "curves"), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["curves"]
    assert found["tokens"] == 300
    assert [curve["name"] for curve in found["estimators"]] == ["grpo", "rloo"]
    assert all(curve["seeds"] == [0, 1] and len(curve["success"]) == 4 for curve in found["estimators"])
    assert found["estimators"][0]["difference"] is None
    for path in (tmp_path / "curves").glob("*/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert sum(line.get("rollout/tokens", 0) for line in lines if line["stage"] == "rl") >= 300
    for path in (tmp_path / "curves").glob("*/*/config.toml"):
        assert tomllib.loads(path.read_text())["sampling"]["max_tokens"] == 5
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "curves").rglob("summary.json")}
    assert len(times) == 4
    assert json.loads(CliRunner().invoke(main, command).stdout)["curves"] == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "curves").rglob("summary.json")} == times


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}={value}" if value[0] in "{0123456789" else f'{key}="{value}"'


@pytest.mark.parametrize(
    ("policy", "more", "said"),
    [
        (f"{FILE}:Coin", (), "needs local:DIR"),
        ("local:somewhere", ("--top-k", "5"), "--top-k does not go with --curves"),
        ("local:somewhere", ("--temperature", "0"), "temperature must be above 0 to train"),
    ],
)
def test_curves_need_a_model_that_can_train(policy: str, more: tuple[str, ...], said: str) -> None:
    result = credit("--estimators", "rloo", "--curves", "100", *more, policy=policy)
    assert result.exit_code == 1
    assert said in result.stderr
