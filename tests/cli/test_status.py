"""`agentrl status`: what it prints of a run, as text and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.distributed.state import SamplingState, WorkerState
from agentrl.training.folder import RunFolder
from agentrl.training.status.beat import Beat, Now, Part, PlannedStage, Process

PLAN = (PlannedStage("rl", 40), PlannedStage("after", 0))
WORKERS = (
    WorkerState(0, "process 11", "ready", 2, 7, 12.4, 300 << 20),
    WorkerState(1, "actor, process 12 on node-b", "starting"),
)
SAMPLING = SamplingState("ray", 7, 2, 3, 1, "sampler 1 (process 9) was killed by SIGKILL", WORKERS)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    folder = RunFolder.create(tmp_path / "run", '[env]\nid = "agentrl/Shop-v0"\n')
    for step in (1, 2, 3):
        folder.log(
            "rl", step, step, 3.0 * step, {"rollout/tokens": 60.0, "rollout/episodes": 6.0, "rollout/lag_max": 1}
        )
    folder.log("eval", 3, 3, 9.5, {"eval/success": 0.5, "eval/ci95_low": 0.4, "eval/ci95_high": 0.6})
    now = Now(0, 3, 10.0, 20.0, SAMPLING)
    part = Part("rl", 3, 40, 1, time.time())
    Beat(Process.own(), time.time(), time.time(), 2.0, PLAN, now, part, 400 << 20).write(folder.status_path)
    yield folder.path
    folder.close()


def status(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, arguments)])


def test_it_says_how_the_run_is_getting_on(run: Path) -> None:
    lines = status(run).output.splitlines()
    assert lines[0] == f"{run}: agentrl/Shop-v0, seed 0"
    assert lines[1].startswith("running: process ")
    assert lines[2:] == [
        "stage     rl, step 3 of 40, 3.0 s a step, about 111 s to go; then after",
        "now       rl 3 of 40",
        "sampling  ray: 7 episodes of 2 groups under way, 3 groups wait; weights 3; tokens at most 1 updates old",
        "          0: ready, process 11, 7 episodes, 12 s CPU, 300 MiB",
        "          1: starting, actor, process 12 on node-b, 0 episodes",
        "speed     20 tokens/s sampled, 2.0 episodes/s (the last 2 steps)",
        "success   held-out 0.500 [0.400, 0.600] (eval, step 3)",
        "faults    0 of 18 episodes",
        "losses    1 samplers or servers lost and replaced; the last: sampler 1 (process 9) was killed by SIGKILL",
        "used      10 s wall, 20 s CPU, 400 MiB in the process that learns",
    ]


def test_json_has_the_same(run: Path) -> None:
    found = json.loads(status(run, "--json").stdout)
    assert (found["state"], found["pace"]["step_s"], found["sampling"]["waiting"]) == ("running", 3.0, 3)
    assert [worker["condition"] for worker in found["sampling"]["workers"]] == ["ready", "starting"]


def test_watch_ends_with_the_run(run: Path) -> None:
    RunFolder(run).write_summary({})
    shown = status(run, "--watch")
    assert shown.exit_code == 0
    assert "finished\n" in shown.output
    assert status(run, "--watch", "--json").exit_code == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    found = status(tmp_path)
    assert found.exit_code == 1
    assert "holds no training run (no config.toml)" in found.output
