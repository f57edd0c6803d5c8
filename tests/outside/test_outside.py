"""Each kind of part, added from outside: by entry point, `module:Name`, `./file.py:Name`, or as an object."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MINE = Path(__file__).with_name("mine.py")
ENTRY_POINTS = """
[agentrl.environments]
mine/Twice-v0 = mine:Twice
mine/Coded-v0 = mine:Coded
[agentrl.objectives]
scaled = mine:Scaled
[agentrl.credits]
below = mine:Below
[agentrl.stages]
counted = mine:Counted
[agentrl.chat_formats]
marked = mine:Marked
[agentrl.sandboxes]
noted = mine:Noted
[agentrl.measures]
letters = mine:Letters
"""
PARTS = ("Twice", "Coded", "Scaled", "Below", "Counted", "Marked", "Noted", "Letters")
NAMES = {
    "entry point": {name: name.lower() for name in PARTS} | {"Twice": "mine/Twice-v0", "Coded": "mine/Coded-v0"},
    "module": {name: f"mine:{name}" for name in PARTS},
    "file": {name: f"./mine.py:{name}" for name in PARTS},
}
WAYS = (*NAMES, "object")
CONFIG = """
[env]
id = "{Twice}"

[model]
hidden_size = 32
num_layers = 1
chat_format = "{Marked}"

[sampling]
max_tokens = 8

[stages.copy]
kind = "supervise"
demonstrators = {{ oracle = 1.0 }}
num_episodes = 4
epochs = 1
batch_episodes = 4

[stages.rl]
kind = "reinforce"
steps = 1
objective = {{ kind = "{Scaled}", scale = 3.0 }}
credit = {{ kind = "{Below}", wanted = 2.0 }}
playing = {{ prompts_per_step = 2, group_size = 1 }}

[stages.count]
kind = "{Counted}"
times = 2

[run]
evaluate_every = 0
tensorboard = false
"""
# One process plays every way, because importing torch is what takes long.
BY_NAME = """
import contextlib, json, sys
from pathlib import Path
from agentrl.bench.evaluate import evaluate
from agentrl.cli import main
from agentrl.env.registry import make, reference
from agentrl.policy.scripted import OraclePolicy

def agentrl(*words):
    main(words, standalone_mode=False)

for way, names in json.loads(sys.argv[1]).items():
    agentrl("train", f"{way}.toml", "--out", f"{way}.run")
    with open(f"{way}.json", "w") as file, contextlib.redirect_stdout(file):
        agentrl("bench", names["Twice"], "--measure", names["Letters"], "--json", "--out", f"{way}.bench")
    env = reference(names["Coded"], backend=names["Noted"])
    assert evaluate(OraclePolicy(), env, make(env).tasks.split("eval")).mean == 1.0
    Path("sandbox_started").rename(f"{way}.sandbox")
"""
AS_OBJECTS = """
import json
from mine import Below, Coded, Counted, Letters, Marked, Noted, Scaled, Twice
from agentrl.bench.runner import run_bench
from agentrl.policy.format.choice import FORMATS
from agentrl.sandbox import register_backend
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train

FORMATS.register("given", Marked)
register_backend("given", Noted)
rl = Reinforce(
    steps=1, objective=Scaled(scale=3.0), credit=Below(wanted=2.0),
    playing=Playing(prompts_per_step=2, group_size=1),
)
copy = Supervise({"oracle": 1.0}, num_episodes=4, epochs=1, batch_episodes=4)
config = TrainConfig(
    EnvConfig("mine/Twice-v0"), ModelConfig(hidden_size=32, num_layers=1, chat_format="given"),
    SamplingConfig(max_tokens=8), {"copy": copy, "rl": rl, "count": Counted(times=2)},
    RunConfig(evaluate_every=0, tensorboard=False),
)
train(config, "object.run")
assert evaluate(OraclePolicy(), Twice, Twice().tasks.split("eval")).mean == 1.0
result = run_bench("mine/Twice-v0", "oracle", measures=[Letters()])
Path("object.json").write_text(json.dumps(result.to_json()))
made = lambda: Coded(backend="given")
assert evaluate(OraclePolicy(), made, Coded().tasks.split("eval")).mean == 1.0
Path("sandbox_started").rename("object.sandbox")
"""


def run(folder: Path, *command: str) -> None:
    """Run a Python command where the file is importable, and what is installed next to it is found."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, an installed distribution of it, and what training and measuring left."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copy(MINE, folder / "mine.py")
    installed = folder / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    for way, names in NAMES.items():
        (folder / f"{way}.toml").write_text(CONFIG.format(**names))
    run(folder, "-c", BY_NAME + AS_OBJECTS, json.dumps(NAMES))
    return folder


def metrics(run_folder: Path, stage: str) -> dict[str, Any]:
    """The first metrics of a stage."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in lines if line["stage"] == stage)


def sampled_texts(run_folder: Path) -> list[str]:
    """What the model said in each sampled turn of training."""
    episodes = [json.loads(line) for line in (run_folder / "trajectories.jsonl").read_text().splitlines()]
    played = [episode for episode in episodes if episode["labels"]["stage"] == "rl"]
    return [turn["action"]["text"] for episode in played for turn in episode["turns"]]


@pytest.mark.parametrize("way", WAYS)
def test_an_environment_and_its_tool_are_measured(played: Path, way: str) -> None:
    result = json.loads((played / f"{way}.json").read_text())
    assert result["success"]["mean"] == 1.0
    assert result["tools"]["doubled"]["calls"] == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_measure_is_in_the_result_of_a_benchmark(played: Path, way: str) -> None:
    measured = json.loads((played / f"{way}.json").read_text())["measures"]["letters"]
    assert (measured["mean"], measured["unit"]) == (2.0, "letters")  # the answers are 12, 14 and 16


@pytest.mark.parametrize("way", WAYS)
def test_an_objective_and_a_credit_estimator_train_with_their_own_settings(played: Path, way: str) -> None:
    step = metrics(played / f"{way}.run", "rl")
    assert step["rollout/reward_mean"] == 0.0  # the model is almost untrained
    assert step["mine/scaled"] == pytest.approx(3.0 * -2.0)
    assert step["grad/norm"] > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_stage_runs_and_is_in_the_summary(played: Path, way: str) -> None:
    assert metrics(played / f"{way}.run", "count")["mine/tasks"] == 12
    assert json.loads((played / f"{way}.run" / "summary.json").read_text())["stages"]["count"] == {"tasks": 12}


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_format_reads_what_the_model_says(played: Path, way: str) -> None:
    texts = sampled_texts(played / f"{way}.run")
    assert texts
    assert all(text.startswith("[marked]") for text in texts)


@pytest.mark.parametrize("way", WAYS)
def test_a_sandbox_backend_runs_the_code_of_an_environment(played: Path, way: str) -> None:
    assert (played / f"{way}.sandbox").exists()


def test_a_run_with_parts_of_a_file_is_resumed_by_another_process(played: Path) -> None:
    summary = played / "file.run" / "summary.json"
    summary.unlink()
    run(played, "-m", "agentrl", "train", "--resume", "file.run")
    assert json.loads(summary.read_text())["stages"]["count"] == {"tasks": 12}
