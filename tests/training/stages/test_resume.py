"""A run that is killed, evaluated or saved at any step learns the same: bit for bit, in every kind of stage."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from agentrl.config import dump_config
from agentrl.errors import CheckpointError
from agentrl.learning.credit.gae import TokenGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.cispo import CISPO
from agentrl.learning.objectives.gspo import GSPO
from agentrl.learning.optimizers import Schedule
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from tests.training.stages.conftest import CONFIG

ROOT = Path(__file__).parents[3]
LEARNER = LearnerSettings(lr=3e-3, num_epochs=2, num_minibatches=2)
RL = Reinforce(steps=4, playing=Playing(3, 4), kl_coef=0.01, checkpoint_every=2, learner=LEARNER)
STAGES = {
    "supervise": Supervise({"yes": 0.5, "no": 0.5}, num_episodes=64, epochs=1, batch_episodes=16, checkpoint_every=2),
    "prefer": Prefer(steps=4, playing=Playing(3, 4), checkpoint_every=2, learner=LEARNER),
    "grpo": RL,
    "ppo": replace(RL, credit=TokenGAE()),
    "gspo": replace(RL, objective=GSPO()),
    "cispo": replace(RL, objective=CISPO()),
}
# Metrics that depend on the clock.
CLOCKED = ("time", "speed/", "share/")
KILL = """
import os, signal, sys
from agentrl.config import load_config
from agentrl.training.plan import TrainConfig
from agentrl.training.train import train

def kill(progress):
    if (progress.stage, progress.step) == ("it", int(sys.argv[3])) and progress.metrics:
        os.kill(os.getpid(), signal.SIGKILL)

train(load_config(TrainConfig, sys.argv[1]), sys.argv[2], on_progress=kill)
"""


def left_by(run: Path) -> dict[str, Any]:
    """Weights, metrics and episodes of a run, without times."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": {name: value.tobytes() for name, value in load_file(run / "model" / "model.safetensors").items()},
        "metrics": [{k: v for k, v in m.items() if not k.startswith(CLOCKED)} for m in metrics if m["stage"] != "eval"],
        "episodes": [
            (t.labels.step, t.episode_id, [(turn.action.token_ids, turn.action.logprobs) for turn in t.turns])
            for t in TrajectoryStore(run / "trajectories.jsonl")
            if t.labels.stage != "eval"
        ]
        if (run / "trajectories.jsonl").exists()
        else [],
    }


@pytest.mark.parametrize("name", STAGES)
def test_kill_9_and_resume_is_bit_identical(undecided: ModelConfig, tmp_path: Path, name: str) -> None:
    config = replace(
        CONFIG,
        env=EnvConfig("tests.training.stages.conftest:Agree"),
        model=undecided,
        stages={"it": STAGES[name]},
        run=replace(CONFIG.run, evaluate_every=1, evaluate_tasks=4),
    )
    train(config, tmp_path / "whole")
    (tmp_path / "c.toml").write_text(dump_config(config))
    command = [sys.executable, "-c", KILL, str(tmp_path / "c.toml"), str(tmp_path / "cut"), "3"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert [p.name for p in sorted((tmp_path / "cut" / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]
    resume(tmp_path / "cut")
    assert left_by(tmp_path / "cut") == left_by(tmp_path / "whole")


def test_kill_9_of_a_stage_that_samples_ahead_skips_no_group_and_trains_none_twice(
    undecided: ModelConfig, tmp_path: Path
) -> None:
    """Two batches are begun when it is killed: they begin again, in their order, and stay at most two updates old."""
    config = replace(
        CONFIG,
        env=EnvConfig("tests.training.stages.conftest:Agree"),
        model=undecided,
        stages={"it": replace(RL, steps=6, playing=Playing(3, 4, max_lag=2))},
    )
    train(config, tmp_path / "whole")
    (tmp_path / "c.toml").write_text(dump_config(config))
    command = [sys.executable, "-c", KILL, str(tmp_path / "c.toml"), str(tmp_path / "cut"), "3"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    resume(tmp_path / "cut")
    groups = {name: groups_by_step(tmp_path / name) for name in ("whole", "cut")}
    assert groups["cut"] == groups["whole"]
    assert [group for step in groups["cut"].values() for group, _ in step] == [str(number) for number in range(18)]
    lags = [
        t.labels.step - 1 - version
        for t in TrajectoryStore(tmp_path / "cut" / "trajectories.jsonl")
        for turn in t.turns
        for version in turn.action.versions or ()
    ]
    assert min(lags) == 0
    assert 1 <= max(lags) <= 2


def groups_by_step(run: Path) -> dict[int, list[tuple[str, str]]]:
    """Group id and task of each group, by step."""
    steps: dict[int, dict[tuple[str, str], None]] = {}
    for t in TrajectoryStore(run / "trajectories.jsonl"):
        steps.setdefault(t.labels.step, {}).setdefault((t.group_id, t.task.id))
    return {number: list(groups) for number, groups in steps.items()}


SHOP = TrainConfig(
    env=EnvConfig("agentrl/Shop-v0", max_turns=6),
    model=ModelConfig(hidden_size=32, num_layers=2),
    stages={
        "warm": Supervise({"oracle": 1.0}, num_episodes=96, epochs=1, batch_episodes=16),
        "rl": replace(RL, playing=Playing(2, 3)),
    },
    run=RunConfig(evaluate_every=0, tensorboard=False, max_concurrency=24),
)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Neither evaluated nor saved more often than it must be."""
    train(SHOP, tmp_path_factory.mktemp("plain") / "run")
    return next(tmp_path_factory.getbasetemp().glob("plain*/run"))


@pytest.mark.parametrize(
    "changes",
    [{"evaluate_every": 1, "evaluate_tasks": 24}, {"checkpoint_seconds": 1e-9}],
    ids=["evaluated", "saved"],
)
def test_evaluations_and_checkpoints_at_every_step_change_nothing(
    plain_run: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(replace(SHOP, run=replace(SHOP.run, **changes)), tmp_path / "other")
    assert left_by(tmp_path / "other") == left_by(plain_run)


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, [1]), (1e-9, [2, 3])], ids=["steps", "seconds"])
def test_a_warm_start_is_saved_at_its_first_step_and_after_some_seconds(
    undecided: ModelConfig, tmp_path: Path, seconds: float, kept: list[int]
) -> None:
    def stop(progress: Any) -> None:
        if progress.stage == "it" and progress.metrics and progress.step == 4:
            raise KeyboardInterrupt

    stages = {"it": Supervise({"yes": 1.0}, num_episodes=96, epochs=1, batch_episodes=16)}
    config = replace(CONFIG, model=undecided, stages=stages, run=replace(CONFIG.run, checkpoint_seconds=seconds))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", on_progress=stop)
    saved = sorted(int(p.name.removeprefix("step-")) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == kept


def test_the_rate_follows_steps_that_taught_nothing(run_of: Callable[..., Path]) -> None:
    never = LearnerSettings(lr=1e-3, schedule=Schedule("linear", final=0.1), num_minibatches=2)
    rl = replace(RL, steps=5, playing=Playing(1, 2), kl_coef=0.0, learner=never, credit=GRPO())
    lines = [json.loads(line) for line in (run_of({"rl": rl}) / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["train/lr"] for line in lines if "train/lr" in line}
    assert 0 < len(rates) < 5, "some steps must teach, and some not"
    assert rates == {step: pytest.approx(1e-3 * (0.1 + 0.9 * (1 - (step - 1) / 5))) for step in rates}
    assert max(rates) > len(rates), "a step that taught came after one that did not"


# Logs.


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, undecided: ModelConfig) -> Path:
    """A run that was interrupted after step 3; its checkpoint is of step 2."""

    def stop(progress: Any) -> None:
        if progress.metrics and progress.step == 3:
            raise KeyboardInterrupt

    run = tmp_path_factory.mktemp("stopped") / "run"
    config = replace(CONFIG, model=undecided, stages={"rl": RL}, run=replace(CONFIG.run, tensorboard=True))
    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_progress=stop)
    return run


def _edit(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[10] ^= 1
    log.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "is missing": Path.unlink,
    "bytes, and the run had written": lambda log: log.write_bytes(log.read_bytes()[:20]),
    "was edited": _edit,
}


def _kept(run: Path) -> dict[Path, bytes]:
    """All files but the status, which is that of the last attempt."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "status.json"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "trajectories.jsonl", "tensorboard/events*"])
@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_log_is_refused_by_name_and_nothing_changes(
    stopped: Path, tmp_path: Path, name: str, what: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    [log] = run.glob(name)
    DAMAGES[what](log)
    before = _kept(run)
    with pytest.raises(CheckpointError, match=rf"{log.name}.*{what}.*resume again, or start a new run"):
        resume(run)
    assert _kept(run) == before
    assert log.name in (run / "status.json").read_text(), "the status says why the run did not go on"


@pytest.mark.parametrize("name", ["metrics.jsonl", "trajectories.jsonl"])
def test_lines_that_no_run_writes_are_not_removed(stopped: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    with (run / name).open("a") as log:
        log.write('{"my": "note"}\n')
    with pytest.raises(CheckpointError, match=f"{name} holds lines after the last checkpoint that no run writes"):
        resume(run)
    assert (run / name).read_text().endswith('{"my": "note"}\n')
