"""Many runs: what they are called, that a failing one stops no other, that the same call goes on, and the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.config import dump_config, load_config
from agentrl.errors import ConfigError
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.sweeps.grid import GridResult, GridRun, grid_table, plan_grid, run_grid
from tests.training.test_preflight import CONFIG, Ask

ROOT = Path(__file__).parents[3]

SMALL = replace(CONFIG, env=EnvConfig("tests.training.test_preflight:Ask"))


def plan(tmp_path: Path, seeds: list[int], *grid: str) -> list[GridRun]:
    (tmp_path / "c.toml").write_text(dump_config(SMALL))
    return plan_grid(lambda more: load_config(TrainConfig, tmp_path / "c.toml", more), tmp_path / "out", seeds, grid)


def test_every_combination_has_its_folder_and_configuration(tmp_path: Path) -> None:
    runs = plan(tmp_path, [0, 7], "stages.rl.steps=1,2", "sampling.max_tokens=3,4")
    assert len({run.folder for run in runs}) == len(runs) == 8
    last = runs[-1]
    assert last.cell == "stages.rl.steps=2 sampling.max_tokens=4"
    assert last.folder == tmp_path / "out" / "stages.rl.steps=2_sampling.max_tokens=4" / "seed-7"
    assert (last.config.seed, last.config.sampling.max_tokens) == (7, 4)


@pytest.mark.parametrize(
    ("seeds", "grid", "message"),
    [
        ([0, 0], [], "each seed once"),
        ([0], ["stages.rl.steps"], "write KEY=VALUE"),
        ([0], ["stages.rl.steps=1,1"], "different values"),
        ([0], ["stages.rl.steps=1", "stages.rl.steps=2"], "names a key twice"),
        ([0], ["stages.rl.stepz=1"], "stepz"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_begins(
    tmp_path: Path, seeds: list[int], grid: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, seeds, *grid)
    assert not (tmp_path / "out").exists()


def test_a_failing_run_stops_no_other_and_the_same_call_goes_on(tmp_path: Path) -> None:
    runs = plan(tmp_path, [0], "env.eval_split=none,eval")  # the first has no held-out tasks
    log = runs[0].folder.with_name("seed-0.log")
    log.parent.mkdir(parents=True)
    log.write_text("what an earlier call said\n")
    results = run_grid(runs, jobs=1)
    assert [result.summary is None for result in results] == [True, False]
    assert log.read_text().startswith("what an earlier call said\n")
    assert "none" in log.read_text()
    assert "exit code" in results[0].error
    written = (runs[1].folder / "summary.json").stat().st_mtime_ns
    seen: list[GridResult] = []
    run_grid(runs[1:], on_result=seen.append)
    assert (runs[1].folder / "summary.json").stat().st_mtime_ns == written
    assert [result.run for result in seen] == runs[1:]
    other = [replace(runs[1], config=replace(runs[1].config, seed=5))]
    with pytest.raises(ConfigError, match="another configuration"):
        run_grid(other)


class Endless(Ask):
    """Once a run has a checkpoint, its next episode waits for the file `go`."""

    def start(self, task: Any) -> str:
        here = Path(os.environ["AGENTRL_TEST_GRID"])
        run = Path(sys.argv[sys.argv.index("--out") + 1])
        if any(run.glob("checkpoints/step-*")):
            (here / f"begun-{os.getpid()}").touch()
            while not (here / "go").exists():
                time.sleep(0.01)
        return str(super().start(task))


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_stops_all_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = replace(SMALL, env=EnvConfig("tests.training.sweeps.test_grid:Endless"))
    (tmp_path / "c.toml").write_text(dump_config(config))
    command = [sys.executable, "-m", "agentrl", "train", "c.toml", "--seeds", "0,1", "--out", "out", "--json"]
    environment = {**os.environ, "AGENTRL_TEST_GRID": str(tmp_path), "PYTHONPATH": str(ROOT)}
    grid = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: len(list(tmp_path.glob("begun-*"))) == min(2, len(os.sched_getaffinity(0))), grid)
        children = [int(path.name.removeprefix("begun-")) for path in tmp_path.glob("begun-*")]
        grid.send_signal(signal.SIGINT)
        _, said = grid.communicate(timeout=60)
    finally:
        grid.kill()
    assert grid.returncode == 130
    assert "2 runs are not finished: the same command goes on with them" in said
    assert [pid for pid in children if is_running(pid)] == []
    assert not list((tmp_path / "out").rglob("summary.json"))
    begun = [path.parent for path in (tmp_path / "out").rglob("checkpoints")]
    assert len(begun) == len(children)
    (tmp_path / "go").touch()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    [cell] = json.loads(again.stdout)["cells"]
    assert (len(cell["runs"]), cell["failed"]) == (2, [])
    for run in (Path(tmp_path, name) for name in cell["runs"]):
        assert (run / "summary.json").exists()
        assert ("Resuming" in run.with_name(f"{run.name}.log").read_text()) == (run in begun)


class Standing:
    """A run's process, which ends when it has been asked a few times; and how many of them there were at once."""

    now, most = 0, 0

    def __init__(self, command: list[str], **options: Any) -> None:
        self.folder, self.asked = Path(command[command.index("--out") + 1]), 0
        Standing.now += 1
        Standing.most = max(Standing.most, Standing.now)
        self.returncode = 0

    def poll(self) -> int | None:
        self.asked += 1
        if self.asked < 3:
            return None
        self.folder.mkdir(exist_ok=True)
        (self.folder / "summary.json").write_text("{}")
        Standing.now -= 1
        return 0

    def terminate(self) -> None:
        pass

    wait = terminate
    __class_getitem__ = classmethod(lambda cls, kind: cls)


SCALES: list[tuple[dict[str, Any], int, int | None, int]] = [
    ({}, 0, None, 4),
    ({}, 0, 3, 3),
    ({"learners": 2}, 0, None, 2),
    ({"learners": 2}, 0, 1, 1),
    ({"learners": 3, "shard": True}, 0, 4, 1),
    ({"samplers": 2}, 0, 4, 2),
    ({"samplers": 2, "threads": 2}, 0, 4, 1),
    ({"samplers": 1}, 1, 4, 2),
    ({"samplers": 2, "learners": 2}, 0, 4, 2),
    ({"samplers": 2, "learners": 2}, 1, 4, 1),
    ({"samplers": 9}, 0, 4, 1),
    ({"samplers": 9, "engine": "ray", "address": "auto"}, 1, 4, 4),
]


@pytest.mark.parametrize(("scale", "max_lag", "jobs", "at_once"), SCALES)
def test_runs_at_once_leave_cores_to_the_samplers_and_learners_of_each(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scale: dict[str, Any],
    max_lag: int,
    jobs: int | None,
    at_once: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(subprocess, "Popen", Standing)
    monkeypatch.setattr(Standing, "most", 0)
    stages = {"rl": Reinforce(playing=Playing(max_lag=max_lag))}
    config = replace(SMALL, stages=stages, scale=ScaleConfig(**scale))
    runs = [GridRun("all", config, tmp_path / "out" / str(number)) for number in range(6)]
    assert all(result.summary is not None for result in run_grid(runs, jobs=jobs))
    assert Standing.most == at_once


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_the_table_has_student_s_interval_over_seeds(tmp_path: Path) -> None:
    run = GridRun("all", SMALL, tmp_path / "run")
    summaries = [{"after": {"greedy": {"mean": mean}, "sampled": {"mean": None}}} for mean in (0.2, 0.4, 0.6)]
    results = [*(GridResult(run, summary) for summary in summaries), GridResult(run, None, "exit code 1: no")]
    [row] = grid_table(results)
    # t(0.975, 2) = 4.3027, standard error 0.2 / sqrt(3).
    assert row["greedy"]["mean"] == pytest.approx(0.4)
    assert row["greedy"]["ci95"] == pytest.approx([0.4 - 4.3027 * 0.2 / 3**0.5, 0.4 + 4.3027 * 0.2 / 3**0.5], abs=1e-4)
    assert row["sampled"] is None
    assert [failed["error"] for failed in row["failed"]] == ["exit code 1: no"]


def test_the_command_refuses_what_contradicts_itself(tmp_path: Path) -> None:
    for words, message in (
        (["--jobs", "1", "x.toml"], "give one of those"),
        (["--seeds", "0", "--fresh", "x.toml"], "no --resume"),
        (["--seeds", "a", "x.toml"], "whole numbers"),
        (["--seeds", "0"], "need a CONFIG"),
    ):
        result = CliRunner().invoke(main, ["train", *words])
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())
