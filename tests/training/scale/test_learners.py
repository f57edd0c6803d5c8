"""Whole training runs whose updates several processes make: they learn what one does, also when one is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.numpy import load_file

from agentrl.config import dump_config
from agentrl.env import registry
from agentrl.errors import ConfigError, LearnerLost
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.preference import BradleyTerry
from agentrl.training import model_setup
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.scale import learners as learners_module
from agentrl.training.settings import EnvConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from tests.distributed.conftest import importable_tests
from tests.distributed.learners.fatal import Fatal, children, no_children
from tests.distributed.test_lost import all_end, cut_by
from tests.training.stages.conftest import CONFIG, metrics_of, undecided
from tests.training.stages.test_resume import RL, left_by

__all__ = ["importable_tests", "undecided"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
TWO = ScaleConfig(learners=2)
SHARED = ScaleConfig(learners=2, shard=True)
ADAMW = LearnerSettings(lr=3e-3)
STAGES = {
    "copy": Supervise({"yes": 0.5, "no": 0.5}, num_episodes=32, epochs=1, batch_episodes=16, learner=ADAMW),
    "rl": Reinforce(steps=2, playing=Playing(3, 4), kl_coef=0.01, credit=RL.credit, learner=ADAMW),
    "pairs": Prefer(steps=1, playing=Playing(3, 4), learner=ADAMW),
}


@pytest.fixture
def config(undecided: ModelConfig) -> TrainConfig:
    env = EnvConfig("tests.training.stages.conftest:Agree")
    run = replace(CONFIG.run, evaluate_every=1, evaluate_tasks=4, stop_when_solved=1.0, stop_when_worse=0)
    return replace(CONFIG, env=env, model=undecided, run=run)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    load = model_setup.load

    def doubled(*given: Any) -> tuple[Any, Any]:
        model, tokenizer = load(*given)
        for module in [module for module in model.modules() if not type(module).__name__.endswith("RMSNorm")]:
            for name, norm in module.named_children():
                if type(norm).__name__.endswith("RMSNorm"):  # which computes in float32, whatever it is given
                    setattr(module, name, torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon))
                    getattr(module, name).load_state_dict(norm.state_dict())
        return model.double(), tokenizer

    monkeypatch.setattr(model_setup, "load", doubled)


def weights_of(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


def difference(one: Path, other: Path) -> float:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def numbers_of(run: Path, stage: str) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "stage"} for line in metrics_of(run, stage)]


@pytest.mark.usefixtures("in_float64")
def test_a_run_of_two_ranks_is_that_of_one(config: TrainConfig, tmp_path: Path) -> None:
    """Three stages, with a reference model, evaluations between steps, and the best weights kept."""
    config = replace(config, stages=STAGES)
    train(config, tmp_path / "one")
    for name, scale in (("whole", TWO), ("shared", SHARED)):
        summary = train(replace(config, scale=scale), tmp_path / name)
        assert weights_of(tmp_path / name)["model.norm.weight"].dtype == np.float64
        assert difference(tmp_path / name, tmp_path / "one") < 1e-9
        for stage in STAGES:
            expected, found = (numbers_of(run, stage) for run in (tmp_path / "one", tmp_path / name))
            assert {line.pop("scale/learners") for line in found} == {2.0}
            assert found == [pytest.approx(line, rel=1e-5, abs=1e-6) for line in expected]
        assert summary["cost"]["cpu_s"] > 0
    assert difference(tmp_path / "one", Path(str(config.model.path)).parent) > 1e-3, "it did learn"
    assert no_children()


@pytest.mark.parametrize("when", ["in an update", "while episodes are sampled"])
def test_a_rank_that_is_killed_ends_the_run_which_then_goes_on(config: TrainConfig, tmp_path: Path, when: str) -> None:
    config = replace(config, scale=TWO, stages={"it": RL})
    train(config, tmp_path / "whole")
    in_update = when == "in an update"
    if in_update:
        loss = Fatal(counts=str(tmp_path / "counts"), how="SIGKILL", at=10)
        config = replace(config, stages={"it": replace(RL, objective=loss)})

    def kill(progress: Progress) -> None:
        if not in_update and (progress.stage, progress.step) == ("it", 3) and progress.metrics:
            os.kill(children()[0], signal.SIGKILL)

    with pytest.raises(LearnerLost, match=r"rank 1 of the learner \(process \d+\) was killed by SIGKILL"):
        train(config, tmp_path / "cut", on_progress=kill)
    assert no_children()
    steps = [int(path.name[-8:]) for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert 0 < max(steps) < RL.steps
    resume(tmp_path / "cut")
    assert left_by(tmp_path / "cut") == left_by(tmp_path / "whole")
    assert no_children()


def test_ranks_end_with_a_trainer_that_is_killed_and_its_run_goes_on_with_one(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, stages={"it": RL})
    train(config, tmp_path / "one")
    (tmp_path / "c.toml").write_text(dump_config(replace(config, scale=SHARED)))
    code, pids, _ = cut_by(signal.SIGKILL, tmp_path / "c.toml", tmp_path / "run", 3)
    assert code == -signal.SIGKILL
    assert pids
    assert all_end(pids)
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace("learners = 2", "learners = 1").replace("shard = true", "shard = false"))
    resume(tmp_path / "run")
    assert difference(tmp_path / "run", tmp_path / "one") < 1e-4


def refused(config: TrainConfig, words: str) -> None:
    with closing(registry.make(config.env.ref)) as probe, pytest.raises(ConfigError, match=words):
        config.check(probe)


REFUSED: dict[str, tuple[ScaleConfig, dict[str, Any], str]] = {
    "nothing to share": (ScaleConfig(shard=True), {}, "set scale.learners to 2"),
    "muon": (SHARED, {"stages": {"copy": Supervise({"yes": 1.0})}}, r"stages\.copy\.learner.*muon.*use adamw"),
    "apart": (SHARED, {"stages": {"it": Prefer(apart=True, objective=BradleyTerry())}}, r"stages\.it\.apart"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_learn_together_is_refused(config: TrainConfig, name: str) -> None:
    scale, changes, words = REFUSED[name]
    refused(replace(config, **{"stages": {"it": RL}, **changes, "scale": scale}), words)


@pytest.mark.parametrize(
    ("device", "gpus", "words"),
    [("cuda", 1, "there are 1; set it to that"), ("cuda:1", 4, "a GPU of its own"), ("meta", 0, "a GPU of its own")],
)
def test_each_rank_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, words: str) -> None:
    monkeypatch.setattr(learners_module, "device_of", lambda name: name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=words):
        learners_module.check_learners(TWO, device, {})
    if gpus == 4:
        learners_module.check_learners(TWO, "cuda", {})


def test_processes_that_were_started_together_already_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check: Callable[..., None] = learners_module.check_learners
    with monkeypatch.context() as torchrun:
        torchrun.setenv("WORLD_SIZE", "2")
        torchrun.setenv("TORCHELASTIC_RUN_ID", "none")
        with pytest.raises(ConfigError, match=r"leave out torchrun, and set scale\.learners"):
            check(ScaleConfig(), "cpu", {})
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="is in use in this process already"):
        check(TWO, "cpu", {})
