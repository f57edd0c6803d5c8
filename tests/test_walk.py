"""docs/walk.md at a small scale: each of its commands, from recorded chats to a benchmark of the served model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl.rollout.store import TrajectoryStore
from tests.serving.own_process import serving

PAGE = (Path(__file__).parents[1] / "docs" / "walk.md").read_text()
SMALL = {
    "model.hidden_size": 64,
    "model.max_context": 600,
    "stages.warm_start.epochs": 3,
    "stages.warm_start.learner.lr": 0.03,
    "stages.warm_start.batch_episodes": 16,
    "stages.before.num_tasks": 8,
    "stages.rl.steps": 2,
    "stages.rl.playing.prompts_per_step": 4,
    "stages.rl.playing.group_size": 4,
    "stages.after.num_tasks": 24,
    "run.tensorboard": "false",
}
pytestmark = pytest.mark.slow


def commands(word: str) -> list[list[str]]:
    """The page's commands that begin so, in order."""
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(word)]


def run(words: list[str], folder: Path) -> str:
    program = [sys.executable, *(["-m", *words] if words[0] == "agentrl" else words[1:])]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the walk has been taken up to the export."""
    folder = tmp_path_factory.mktemp("walk")
    for language in ("python", "toml"):
        for code in re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S):
            (folder / code.split()[1]).write_text(code)
    run([*commands("python make_chats.py")[0], "240"], folder)
    run(commands("agentrl import")[0], folder)
    overrides = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    run([*commands("agentrl train")[0], *overrides], folder)
    run(commands("agentrl export")[0], folder)
    return folder


@pytest.fixture
def url(walked: Path) -> Iterator[str]:
    with serving(commands("agentrl serve-model")[0][1:], walked) as (_, url):
        yield url


def turns(bench: Path) -> dict[str, Any]:
    """What was said in each episode, by task."""
    return {
        episode.task.id: [
            (turn.action.text, [(c.name, c.arguments) for c in turn.action.tool_calls]) for turn in episode.turns
        ]
        for episode in TrajectoryStore(bench / "trajectories.jsonl")
        if episode.labels.stage != "reference"
    }


def test_the_served_model_is_the_model_of_the_run(walked: Path, url: str) -> None:
    served, local = commands("agentrl bench")
    few = ["--tasks", "24", "--no-references", "--json"]
    there = json.loads(run([*[url if word.startswith("http://") else word for word in served], *few], walked))
    here = json.loads(run([*local, *few], walked))
    assert there["success"] == here["success"]
    assert turns(walked / "runs" / "served") == turns(walked / "runs" / "local")
    compared = json.loads(run([*commands("agentrl compare")[0], "--json"], walked))
    assert compared["difference"]["mean"] == 0
    after = json.loads((walked / "runs" / "walk" / "summary.json").read_text())["after"]["greedy"]
    assert after["ci95"][0] <= there["success"]["mean"] <= after["ci95"][1]
