"""What `run_status` says of runs in every state, by hand-made folders and one run that really trains."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import dump_config
from agentrl.distributed.state import SamplingState
from agentrl.errors import CheckpointError
from agentrl.training.folder import RunFolder
from agentrl.training.progress import Progress
from agentrl.training.settings import RunConfig
from agentrl.training.status.beat import Beat, Now, Part, PlannedStage, Process
from agentrl.training.status.read import SILENT_S, RunStatus, run_status
from agentrl.training.train import resume, train
from tests.training.test_preflight import CONFIG

PLAN = (PlannedStage("warm_start", 0), PlannedStage("rl", 40), PlannedStage("after", 0))
LAG = {"rollout/lag_max": 1.0, "rollout/lag_mean": 0.5, "rollout/success": 0.25, "rollout/discarded_server": 2.0}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """A run in its second stage whose last three steps took 4 s each, which this process holds."""
    made = RunFolder.create(tmp_path / "run", dump_config(CONFIG))
    made.log("warm_start", 9, 0, 10.0, {"loss/supervised": 1.0})
    for step in range(1, 5):
        played = {"rollout/tokens": 100.0, "rollout/episodes": 8.0}
        made.log("rl", step, step, 10.0 + 4 * step, played | (LAG if step == 4 else {}))
    yield made
    made.close()


def beat(**changes: Any) -> Beat:
    now = Now(1, 4, 27.0, 50.0, SamplingState("processes", episodes=5, groups=2, waiting=1, restarts=1))
    made = Beat(Process.own(), time.time() - 60, time.time(), 2.0, PLAN, now, memory_bytes=1 << 20)
    return replace(made, **changes)


def gone() -> Process:
    """A process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return replace(Process.own(), pid=done.pid)


def killed(folder: RunFolder) -> None:
    """Leave the lock's file as a killed process does."""
    lock = (folder.path / ".lock").read_text()
    folder.close()
    (folder.path / ".lock").write_text(lock.replace(str(os.getpid()), str(gone().pid)))


def test_a_run_that_goes_on(folder: RunFolder) -> None:
    beat().write(folder.status_path)
    found = run_status(folder.path)
    assert (found.state, found.why, found.resume) == ("running", "", "")
    assert [(s.name, s.state, s.step, s.total) for s in found.stages] == [
        ("warm_start", "finished", 9, 0),
        ("rl", "now", 4, 40),
        ("after", "next", 0, 0),
    ]
    assert found.pace is not None
    assert (found.pace.step_s, found.pace.tokens_per_s, found.pace.episodes_per_s) == (4.0, 25.0, 2.0)
    assert found.left_s == 36 * 4.0
    assert found.sampling == beat().now.sampling
    assert found.played.faults == {"server": 2}
    assert (found.played.episodes, found.played.lag_max, found.weights) == (32, 1.0, 4)
    assert found.played.training is not None
    assert (found.played.training.mean, found.played.training.step, found.played.held_out) == (0.25, 4, None)


def test_a_run_that_has_said_nothing_of_itself_yet(folder: RunFolder) -> None:
    found = run_status(folder.path)
    assert (found.state, found.heard_s, found.left_s) == ("running", None, None)
    assert [(s.name, s.state) for s in found.stages] == [("warm_start", "finished"), ("rl", "now")]


def test_a_run_that_another_process_has_just_gone_on_with(folder: RunFolder) -> None:
    beat(process=gone(), ended="StoreError: no space").write(folder.status_path)
    assert (run_status(folder.path).state, run_status(folder.path).heard_s) == ("running", None)


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_process_that_says_nothing_for_long_is_silent(folder: RunFolder, host: str) -> None:
    process = Process.own() if host == "here" else Process(1, "elsewhere")
    lock = folder.path / ".lock"
    lock.write_text(f'{{"pid": {process.pid}, "host": "{process.host}"}}')
    beat(process=process, written_s=time.time() - SILENT_S - 5).write(folder.status_path)
    assert run_status(folder.path).state == "silent"
    beat(process=process).write(folder.status_path)
    assert run_status(folder.path).state == "running"


def test_a_killed_run_says_how_it_goes_on(folder: RunFolder) -> None:
    beat(process=gone()).write(folder.status_path)
    killed(folder)
    (folder.checkpoints_path / "step-00000012").mkdir()
    found = run_status(folder.path)
    assert (found.state, found.why, found.checkpoint) == ("interrupted", "", 12)
    assert found.resume == f"agentrl train --resume {folder.path}"
    assert (found.left_s, found.part) == (None, None)


def test_another_process_with_the_number_of_a_killed_one_is_told_apart(folder: RunFolder) -> None:
    own = Process.own()
    if not own.start:
        pytest.skip("this kernel does not say when a process began")
    beat(process=replace(own, start=own.start + 1)).write(folder.status_path)
    assert run_status(folder.path).state == "interrupted"


def test_a_run_that_ended_with_an_error_says_which(folder: RunFolder) -> None:
    beat(ended="StoreError: no space").write(folder.status_path)
    folder.close()
    assert (run_status(folder.path).state, run_status(folder.path).why) == ("interrupted", "StoreError: no space")


def test_the_time_to_go_of_a_stage_that_counts_no_steps_is_that_of_what_it_reports(folder: RunFolder) -> None:
    now = replace(beat().now, stage=2)
    part = Part("after", 30, 50, 10, time.time() - 40)
    beat(now=now, part=part).write(folder.status_path)
    left_s = run_status(folder.path).left_s
    assert left_s is not None
    assert 40 <= left_s < 60  # 20 of 50 took 40 s, and 20 are left


def test_a_finished_run(folder: RunFolder) -> None:
    beat().write(folder.status_path)
    folder.write_summary({})
    folder.close()
    found = run_status(folder.path)
    assert (found.state, found.resume, found.left_s) == ("finished", "", None)
    assert {stage.state for stage in found.stages} == {"finished"}


def test_a_damaged_status_file_counts_as_none(folder: RunFolder) -> None:
    folder.status_path.write_text("{")
    assert run_status(folder.path).heard_s is None


def test_a_folder_that_is_no_run_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"holds no training run.*there are runs below it: {folder.path}"):
        run_status(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        run_status(tmp_path / "absent")
    folder.config_path.write_text("x = [")
    with pytest.raises(CheckpointError, match=r"config\.toml cannot be read"):
        run_status(folder.path)


def test_a_run_tells_of_itself_while_it_trains_and_after_it_was_interrupted(tmp_path: Path) -> None:
    run, seen = tmp_path / "run", list[RunStatus]()
    config = replace(CONFIG, run=RunConfig(evaluate_every=0, tensorboard=False))

    def look(progress: Progress) -> None:
        if progress.stage == "rl" and not seen:
            deadline = time.monotonic() + 60
            while run_status(run).part is None and time.monotonic() < deadline:
                time.sleep(0.05)
            seen.append(run_status(run))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_progress=look)
    assert seen[0].state == "running"
    assert seen[0].process == Process.own()
    assert [stage.name for stage in seen[0].stages] == list(config.planned())
    assert (run_status(run).state, run_status(run).why) == ("interrupted", "stopped by Ctrl-C")
    resume(run)
    assert run_status(run).state == "finished"
