"""A learnable environment and a model that answers either way, for the tests of stages end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.base import StageSettings
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from agentrl.trajectory import Task
from tests.learning.fixtures import one_thread

__all__ = ["one_thread"]
Stages = Mapping[str, StageSettings]
Metrics = list[dict[str, Any]]


@register("test/Agree-v0", max_turns=1)
class Agree(ToolEnv):
    """Say yes."""

    tasks = Tasks.of(train=[{"n": n} for n in range(12)], eval=[{"n": n} for n in range(12, 16)])

    def start(self, task: Task) -> str:
        return f"Number {task.data['n']}: yes or no?"

    def score(self, answer: str | None) -> float:
        return float(answer == "yes")

    def yes(self, messages: Any) -> str:
        return "yes"

    def no(self, messages: Any) -> str:
        return "no"


@register("test/AgreeTwice-v0", max_turns=2)
class AgreeTwice(Agree):
    """Say yes, in an environment of another name."""

    def start(self, task: Task) -> str:
        return f"Once more {task.data['n']}: yes or no?"


CONFIG = TrainConfig(
    env=EnvConfig("test/Agree-v0"),
    model=ModelConfig(hidden_size=32, num_layers=1),
    sampling=SamplingConfig(max_tokens=6),
    run=RunConfig(evaluate_every=0, tensorboard=False, max_concurrency=16),
)


@pytest.fixture(scope="session")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A model that says yes about as often as no."""
    run = tmp_path_factory.mktemp("undecided") / "run"
    warm = LearnerSettings(lr=0.03, optimizer="muon", schedule=Schedule("linear", warmup_steps=3))
    stage = Supervise({"yes": 0.5, "no": 0.5}, num_episodes=256, epochs=2, batch_episodes=16, learner=warm)
    train(replace(CONFIG, stages={"copy": stage}), run)
    return ModelConfig(path=str(run / "model"))


@pytest.fixture
def run_of(undecided: ModelConfig, tmp_path: Path) -> Callable[..., Path]:
    """Train the undecided model in given stages. Returns: the run's folder."""

    def run(stages: Stages, name: str = "run", **changes: Any) -> Path:
        train(replace(CONFIG, **{"model": undecided, "stages": stages, **changes}), tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture
def interrupted_run_of(undecided: ModelConfig, tmp_path: Path) -> Callable[..., Path]:
    """As `run_of`, but interrupted after a step, and then resumed from the newest checkpoint."""

    def run(stages: Stages, after: int, **changes: Any) -> Path:
        def stop(progress: Progress) -> None:
            if progress.metrics and progress.step == after:
                raise KeyboardInterrupt

        config = replace(CONFIG, **{"model": undecided, "stages": stages, **changes})
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "interrupted", on_progress=stop)
        resume(tmp_path / "interrupted")
        return tmp_path / "interrupted"

    return run


def metrics_of(run: Path, stage: str) -> Metrics:
    """The metrics of each step of a stage, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith(("time", "share/", "speed/"))}
        for line in lines
        if line["stage"] == stage
    ]
