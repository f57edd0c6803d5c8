"""The training program as a user runs it: phases, records, exact resume."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from agentrl.config import dump_config
from agentrl.errors import ConfigError, StoreError
from agentrl.learning.credit.base import differs, without_faults
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.messages import Action
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.folder import RunFolder
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup, Turn
from tests.endings import ENDINGS

STAGES = {
    "warm_start": Supervise(
        {"oracle": 0.5, "hasty": 0.5},
        num_episodes=96,
        epochs=2,
        batch_episodes=16,
        checkpoint_every=5,
        learner=LearnerSettings(lr=0.03, optimizer="muon", schedule=Schedule("linear", warmup_steps=10)),
    ),
    "before": Evaluate(num_tasks=6),
    "rl": Reinforce(
        steps=5,
        playing=Playing(prompts_per_step=4, group_size=4),
        checkpoint_every=2,
    ),
    "after": Evaluate(num_tasks=6),
}
CONFIG = TrainConfig(
    env=EnvConfig("agentrl/Shop-v0", max_turns=4),
    model=ModelConfig(hidden_size=32, num_layers=1),
    sampling=SamplingConfig(max_tokens=24),
    stages=STAGES,
    run=RunConfig(evaluate_every=2, evaluate_tasks=4, tensorboard=False),
)


def with_stage(name: str, **changes: object) -> TrainConfig:
    """The configuration with other settings of one stage."""
    return replace(CONFIG, stages={**STAGES, name: replace(STAGES[name], **changes)})


# What two runs of one configuration may differ in.
_TIMED = ("time_s",)
_TIMED_AREAS = ("time/", "share/", "speed/")


def _metrics(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in _TIMED and not k.startswith(_TIMED_AREAS)} for line in lines]


def _weights(run: Path) -> dict[str, bytes]:
    newest = max((run / "checkpoints").glob("step-*"))
    return {name: tensor.tobytes() for name, tensor in load_file(newest / "model.safetensors").items()}


def _episodes(run: Path) -> list[tuple[object, ...]]:
    return [
        (t.labels.stage, t.group_id, t.episode_id, t.reward, tuple(turn.action.token_ids or () for turn in t.turns))
        for t in TrajectoryStore(run / "trajectories.jsonl")
    ]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, run)
    return run


def test_a_run_leaves_what_it_promises(whole_run: Path) -> None:
    summary = json.loads((whole_run / "summary.json").read_text())
    assert summary["env"]["id"] == "agentrl/Shop-v0"
    assert summary["env"]["limits"] == {"max_turns": 4}
    assert list(summary["stages"]) == ["warm_start", "before", "rl", "after"]
    assert summary["seed"] == 0
    assert summary["wall_s"] > 0
    assert summary["cpu_s"] > 0
    for when in ("before", "after"):
        assert summary[when]["n_tasks"] == 6
        for mode in ("greedy", "sampled"):
            low, high = summary[when][mode]["ci95"]
            assert 0 <= low <= summary[when][mode]["mean"] <= high <= 1
    assert (whole_run / "report.html").stat().st_size > 1000
    stages = [line["stage"] for line in _metrics(whole_run)]
    # 2 epochs of 96 demonstrations by 16; before, 5 steps with 2 evaluations between them, after.
    assert stages == ["warm_start"] * 12 + ["before", "rl", "rl", "eval", "rl", "rl", "eval", "rl", "after"]
    assert [line["version"] for line in _metrics(whole_run)] == [0] * 12 + [0, 1, 2, 2, 3, 4, 4, 5, 5]


def test_the_summary_says_what_the_run_was_made_with_and_what_it_means(whole_run: Path) -> None:
    summary = json.loads((whole_run / "summary.json").read_text())
    assert {"agentrl", "torch", "numpy", "python"} <= set(summary["packages"])
    assert summary["machine"]["cores"] >= 1
    assert summary["machine"]["device"] == "cpu"
    assert summary["settings"]["stages"]["rl"]["steps"] == 5
    cost, lines = summary["cost"], _metrics(whole_run)
    assert list(cost["cpu_s_by_stage"]) == ["warm_start", "before", "rl", "after"]
    assert sum(cost["cpu_s_by_stage"].values()) == pytest.approx(cost["cpu_s"], abs=1.0)
    for what, name in (("sampled", "rollout/tokens"), ("trained", "train/tokens"), ("context", "train/context_tokens")):
        assert cost["tokens"][what] == sum(line.get(name, 0) for line in lines)
    held_out = [t for t in TrajectoryStore(whole_run / "trajectories.jsonl") if t.labels.stage != "rl"]
    assert cost["tokens"]["evaluated"] == sum(t.num_sampled_tokens for t in held_out)
    assert [(one["mode"], one["difference"]["n"]) for one in summary["verdicts"][:2]] == [("greedy", 6), ("sampled", 6)]
    assert "outcomes" not in summary["after"]
    assert len(summary["stages"]["after"]["outcomes"]["greedy"]) == 6


def undocumented(names: Iterable[str]) -> set[str]:
    """Names that the table of metrics in docs/train.md lacks; there CAUSE, KIND and ENV stand for a word."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
    table = text.partition("## Metrics")[2].partition("\n## ")[0]
    known = re.findall(r"`(\w+/[\w@]+)`", table)
    bounds = [f"{name}_ci95_{side}" for name in known for side in ("low", "high")]
    patterns = [re.sub("CAUSE|KIND|ENV", r"\\w+", name) for name in (*known, *bounds)]
    return {name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)}


def test_every_logged_name_is_documented(whole_run: Path) -> None:
    logged = {name for line in _metrics(whole_run) for name in line if "/" in name}
    assert len(logged) > 30
    assert undocumented([*logged, "rollout/nonsense"]) == {"rollout/nonsense"}


def test_every_name_of_a_metric_in_the_code_is_documented() -> None:
    """Also of parts that the run of these tests does not have."""
    areas = "rollout|loss|policy|preference|value|grad|supervised|train|eval|time|share|speed"
    root = Path(__file__).resolve().parents[2] / "agentrl"
    files = [*root.glob("learning/**/*.py"), *root.glob("training/**/*.py"), root / "bench" / "evaluate.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(rf'"((?:{areas})/[a-z_]+[a-z])"', code)) - {"grad/count", "value/count", "preference/count"}
    assert len(named) > 40
    assert undocumented(named) == set()


def test_training_and_evaluation_tasks_are_disjoint_in_the_records(whole_run: Path) -> None:
    splits: dict[str, set[str]] = {}
    for trajectory in TrajectoryStore(whole_run / "trajectories.jsonl"):
        splits.setdefault(str(trajectory.labels.stage), set()).add(trajectory.task.split)
    assert splits == {"rl": {"train"}, "eval": {"eval"}, "before": {"eval"}, "after": {"eval"}}


def test_the_same_seed_gives_the_same_run_and_another_seed_does_not(whole_run: Path, tmp_path: Path) -> None:
    train(CONFIG, tmp_path / "same")
    assert _weights(tmp_path / "same") == _weights(whole_run)
    assert _metrics(tmp_path / "same") == _metrics(whole_run)
    assert _episodes(tmp_path / "same") == _episodes(whole_run)
    train(replace(CONFIG, seed=1), tmp_path / "other")
    assert _weights(tmp_path / "other") != _weights(whole_run)


@pytest.mark.parametrize(("stage", "lines"), [("warm_start", 7), ("rl", 3)])
def test_kill_9_and_resume_is_bit_identical(whole_run: Path, tmp_path: Path, stage: str, lines: int) -> None:
    run, config = tmp_path / "killed", tmp_path / "config.toml"
    config.write_text(dump_config(CONFIG))
    command = [sys.executable, "-m", "agentrl", "train", str(config), "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        _wait_for(run / "metrics.jsonl", stage, lines, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (run / "summary.json").exists()
    with (run / "trajectories.jsonl").open("ab") as log:
        log.write(b'{"torn')
    resume(run)
    assert _weights(run) == _weights(whole_run)
    assert _metrics(run) == _metrics(whole_run)
    assert _episodes(run) == _episodes(whole_run)


def _wait_for(path: Path, stage: str, lines: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        text = path.read_text() if path.exists() else ""
        if text.count(f'"stage":"{stage}"') >= lines:
            return
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        time.sleep(0.005)
    raise AssertionError(f"the run never reached {lines} lines of {stage}")


def test_an_edited_configuration_is_not_resumed_silently(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "edited"
    shutil.copytree(whole_run, run)
    (run / "summary.json").unlink()
    (run / "config.toml").write_text(dump_config(with_stage("rl", learner=LearnerSettings(lr=0.5))))
    with pytest.raises(ConfigError, match=r"config\.toml has been edited since"):
        resume(run)
    assert _metrics(run) == _metrics(whole_run)
    (run / "config.toml").write_text(dump_config(replace(CONFIG, run=replace(CONFIG.run, keep_checkpoints=3))))
    assert resume(run)["steps"] == 5


def test_a_metric_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "")
    folder.log("rl", 1, 1, 0.5, {"loss/policy": math.nan, "loss/kl": 0.25})
    folder.write_summary({"seed": 0, "after": {"mean": math.inf}})
    assert json.loads(folder.metrics_path.read_text())["loss/policy"] is None
    assert json.loads(folder.summary_path.read_text(), parse_constant=pytest.fail)["after"] == {"mean": None}


def test_a_folder_that_holds_a_run_is_refused(whole_run: Path) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        train(CONFIG, whole_run)


def test_nothing_to_begin_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path"):
        train(with_stage("warm_start", demonstrators={}), tmp_path / "run")


def test_a_misspelt_demonstrator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'oracle'"):
        train(with_stage("warm_start", demonstrators={"oracel": 1.0}), tmp_path / "run")


def test_a_full_disk_says_what_to_do_and_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    real = Path.open

    def full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if self.name == "metrics.jsonl" and "a" in mode and self.exists() and self.stat().st_size > 2000:
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(StoreError, match="--resume"):
            train(CONFIG, run)
    assert resume(run)["after"]["n_tasks"] == 6


def test_faults_leave_a_group_before_its_baseline() -> None:
    def episode(reward: float, status: str = "terminated") -> Trajectory:
        return Trajectory(EnvRef("e"), Task("t"), 0, [Turn((), Action(), reward)], ending=ENDINGS[status])  # type: ignore[arg-type]

    group = TrajectoryGroup("g", [episode(1.0), episode(0.0, "fault"), episode(1.0)])
    assert without_faults(group).rewards == [1.0, 1.0]
    assert differs(group)
    assert not differs(without_faults(group))


def test_ctrl_c_in_the_warm_start_ends_the_run_within_a_step(tmp_path: Path) -> None:
    """One Ctrl-C cancels the run's task, which must come by a point where that can reach it."""
    steps: list[int] = []

    def press(progress: Progress) -> None:
        if progress.stage == "warm_start":
            steps.append(progress.step)
            if progress.step == 2:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "run", on_progress=press)
    assert steps == [1, 2]
    assert (tmp_path / "run" / "config.toml").exists()


def test_a_disk_full_at_the_summary_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run", "")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match=r"summary\.json"):
            folder.write_summary({"seed": 0})
    assert not folder.is_finished
    folder.write_summary({"seed": 0})
    assert json.loads(folder.summary_path.read_text()) == {"seed": 0}
