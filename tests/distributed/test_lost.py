"""Samplers and trainers that are killed, as a user sees it: nothing is lost, doubled, or left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.config import dump_config
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import EnvConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.train import resume, train
from tests.training.stages.conftest import CONFIG, undecided
from tests.training.stages.test_resume import RL, ROOT, groups_by_step, left_by

__all__ = ["undecided"]
# Ends by a signal after a step, and first writes which processes it has started.
CUT = """
import os, subprocess, sys
from pathlib import Path
from agentrl.config import load_config
from agentrl.training.plan import TrainConfig
from agentrl.training.train import train

def cut(progress):
    if (progress.stage, progress.step) == ("it", int(sys.argv[3])) and progress.metrics:
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        Path(sys.argv[4]).write_text(" ".join(path.read_text() for path in children))
        os.kill(os.getpid(), int(sys.argv[5]))

train(load_config(TrainConfig, sys.argv[1]), sys.argv[2], on_progress=cut)
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def cut_by(number: signal.Signals, config: Path, run: Path, step: int) -> tuple[int, list[int], str]:
    """Return code, the processes that the run had started, and what it wrote."""
    pids = run.with_name("pids")
    command = [sys.executable, "-c", CUT, str(config), str(run), str(step), str(pids), str(int(number))]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.returncode, [int(pid) for pid in pids.read_text().split()], done.stdout


def all_end(pids: list[int]) -> bool:
    """Whether the processes end within some seconds."""
    limit = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=str)
def test_a_sampler_that_is_killed_or_stopped_in_the_middle_of_a_group_changes_no_bit(
    undecided: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("agentrl.distributed.local._ALIVE_S", 0.5)
    monkeypatch.setattr("agentrl.distributed.local._SILENT_S", 15.0)
    kwargs = {"mark": str(tmp_path / "mark"), "spare": os.getpid(), "number": int(number)}
    env = EnvConfig("tests.distributed.fatal:Fatal", kwargs=kwargs)
    config = replace(CONFIG, env=env, model=undecided, stages={"it": RL})
    train(config, tmp_path / "one")
    train(replace(config, scale=ScaleConfig(samplers=1)), tmp_path / "killed")
    assert (tmp_path / "mark").exists()
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "killed")
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    assert [line["scale/restarts"] for line in elsewhere["metrics"]] == [1.0] * 4
    assert all(t.labels.attempt == 0 for t in TrajectoryStore(tmp_path / "killed" / "trajectories.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=str)
def test_a_trainer_that_is_stopped_leaves_no_process_and_its_run_goes_on(
    undecided: ModelConfig, tmp_path: Path, number: signal.Signals
) -> None:
    config = replace(
        CONFIG,
        env=EnvConfig("tests.distributed.fatal:Fatal"),
        model=undecided,
        stages={"it": replace(RL, steps=5, playing=Playing(3, 4, max_lag=1))},
        scale=ScaleConfig(samplers=1),
    )
    (tmp_path / "c.toml").write_text(dump_config(config))
    code, pids, printed = cut_by(number, tmp_path / "c.toml", tmp_path / "run", 3)
    assert code != 0
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert all_end(pids)
    assert printed == "", "what authors print stays out of the output of commands"
    file = tmp_path / "run" / "config.toml"  # it may go on with another number of samplers
    file.write_text(file.read_text().replace("samplers = 1", "samplers = 0"))
    resume(tmp_path / "run")
    trained = groups_by_step(tmp_path / "run")
    assert [group for step in trained.values() for group, _ in step] == [str(n) for n in range(15)]
    assert [len(step) for step in trained.values()] == [3] * 5
    lines = left_by(tmp_path / "run")["metrics"]
    assert all(0 <= line["rollout/lag_mean"] <= line["rollout/lag_max"] <= 1 for line in lines)
