"""Whole training runs whose turns a server samples: they learn what embedded runs learn, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from agentrl.learning.learner import LearnerSettings
from agentrl.policy import token_policy
from agentrl.rollout.store import TrajectoryStore
from agentrl.sampling import turn_seed
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig, ScaleConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from tests.policy.servers.fakes import FakeServer, FakeSglang, FakeVllm
from tests.policy.servers.sockets import listening

TEACH = Supervise(
    {"oracle": 1.0},
    num_episodes=96,
    epochs=2,
    batch_episodes=16,
    learner=LearnerSettings(lr=0.03, optimizer="muon"),
)
CONFIG = TrainConfig(
    env=EnvConfig("agentrl/Shop-v0", max_turns=4),
    model=ModelConfig(hidden_size=32, num_layers=1, max_context=512),
    sampling=SamplingConfig(max_tokens=24),
    stages={"warm_start": TEACH},
    run=RunConfig(evaluate_every=2, evaluate_tasks=4, tensorboard=False),
)
PLAYED = {
    "rl": Reinforce(steps=3, playing=Playing(prompts_per_step=4, group_size=4)),
    "after": Evaluate(num_tasks=6),
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the runs begin with."""
    out = tmp_path_factory.mktemp("taught") / "run"
    train(CONFIG, out)
    return out / "model"


@pytest.fixture(autouse=True)
def small_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_policy, "turn_seed", lambda stream, turn: turn_seed(stream, turn) % 2**31)


def config_of(model: Path, **scale: Any) -> TrainConfig:
    return replace(
        CONFIG,
        model=replace(CONFIG.model, path=str(model)),
        stages=PLAYED,
        scale=ScaleConfig(server_tolerance=1e-3, **scale),
    )


def metrics_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "share/", "speed/", "scale/", "time_s")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def turns_of(run: Path) -> list[Any]:
    found = [
        (t.task.id, t.reward, turn.action.prompt_ids, turn.action.token_ids, turn.action.logprobs, turn.action.versions)
        for t in TrajectoryStore(run / "trajectories.jsonl").read()
        for turn in t.turns
    ]
    return sorted(found, key=repr)


@pytest.mark.parametrize("kind", [FakeVllm, FakeSglang])
def test_a_run_over_a_server_is_the_embedded_run(kind: type[FakeServer], taught: Path, tmp_path: Path) -> None:
    train(config_of(taught), tmp_path / "embedded")
    with listening(kind(taught)) as url:
        train(config_of(taught, server=url), tmp_path / "served")
    ours, theirs = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("embedded", "served"))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert turns_of(tmp_path / "served") == turns_of(tmp_path / "embedded")
    assert metrics_of(tmp_path / "served") == metrics_of(tmp_path / "embedded")
    assert not (tmp_path / "served" / "server_weights").exists()
