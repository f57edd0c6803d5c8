"""A user's texts and numbers from a CSV file to a trained model and its error, by commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.training.sweeps.arms import read_arms

ROOT = Path(__file__).parents[2]
ENV = "agentrl/NumericPrediction-v0"
PRICES = {"tea": 10, "mug": 20, "pan": 30, "cup": 40}
TOML = """
[env]
id = "agentrl/NumericPrediction-v0"
kwargs = { file = "prices.csv", number = "price", digits = 1 }

[model]
hidden_size = 32
num_layers = 1

[run]
evaluate_every = 0
tensorboard = false

[stages.warm_start]
demonstrators = { oracle = 1.0 }
episodes_per_task = 2
epochs = 5

[stages.before]
num_tasks = 4

[stages.rl]
steps = 1
playing = { prompts_per_step = 2, group_size = 2 }

[stages.after]
num_tasks = 16
measures = ["rmse"]
"""


def run(*words: str) -> str:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [f"{n} {what},{price}" for n in range(24) for what, price in PRICES.items()]
    (tmp_path / "prices.csv").write_text("text,price\n" + "\n".join(lines) + "\n")
    (tmp_path / "prices.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_csv_file_is_trained_on_and_the_error_of_its_model_is_measured(folder: Path) -> None:
    run("train", "prices.toml", "--out", "run")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["after"]["n_tasks"] == 16
    assert summary["stages"]["warm_start"]["planned_updates"] == 5 * 2 * 77 // 8
    kwargs = ("--kwarg", "file=prices.csv", "--kwarg", "number=price", "--kwarg", "digits=1")
    words = (
        "bench",
        ENV,
        "--policy",
        "local:run/model",
        *kwargs,
        "--measure",
        "rmse",
        "--temperature",
        "0",
        "--json",
        "--out",
        "b",
    )
    found = json.loads(run(*words))
    assert found["n_episodes"] == 19
    assert found["references"]["oracle"]["success"]["mean"] == 1.0
    # The mean of all prices has an error of 11.2; the model reads the word that the price depends on.
    assert found["measures"]["rmse"]["mean"] < 5.0


@pytest.mark.parametrize(
    ("words", "message"),
    [(("data",), "--kwarg data: expected KEY=VALUE"), (("dat=wine",), "unexpected keyword argument 'dat'")],
)
def test_arguments_that_an_environment_does_not_have_are_refused(words: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", ENV, *(w for word in words for w in ("--kwarg", word))])
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("override", ["env.kwargs.data=friedman1", "env.id=agentrl/NumericQueries-v0"])
def test_the_shipped_file_is_for_every_data_set(override: str) -> None:
    arms = {arm.name: arm for arm in read_arms(ROOT / "numeric.toml", [override])}
    assert [name for name, arm in arms.items() if arm.shared is None] == ["main"]
    assert {"cross_entropy", "continued", "expert"} <= arms.keys()
