"""What a run refuses before it begins: the key, and what to do; and no folder is left behind."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import AgentRLError, CheckpointError, ConfigError, ModelError, RolloutError
from agentrl.tool_schema import tool
from agentrl.training.config import (
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RLConfig,
    RunConfig,
    TrainConfig,
    WarmStartConfig,
)
from agentrl.training.loop import resume, train


@register("test/Ask-v0", max_turns=3)
class Ask(ToolEnv):
    """Say the price."""

    tasks = Tasks.of(train=[{"n": i} for i in range(9)], eval=[{"n": i} for i in range(9, 12)], none=[])

    def start(self, task: Any) -> str:
        return "What does it cost?"

    @tool
    def price(self) -> int:
        """The price."""
        return int(self.task.data["n"])

    def score(self, answer: str | None) -> float:
        return float(answer == str(self.task.data["n"]))

    def oracle(self, messages: Any) -> Any:
        return messages[-1].content if messages[-1].role == "tool" else call("price")


@register("test/AskNothingHeldOut-v0")
class AskNothingHeldOut(Ask):
    """Say the price."""

    tasks = Tasks.of(train=[{"n": 1}])


@register("test/AskBrokenOracle-v0")
class AskBrokenOracle(Ask):
    """Say the price."""

    def oracle(self, messages: Any) -> Any:
        raise IndexError("list index out of range")


@register("test/AskNoisy-v0")
class AskNoisy(Ask):
    """Any end may earn anything, so that an untrained model's groups differ."""

    score_truncated = True
    episodes = itertools.count()

    def score(self, answer: str | None) -> float:
        return next(self.episodes) % 7 / 6


CONFIG = TrainConfig(
    env=EnvConfig("test/Ask-v0"),
    model=ModelConfig(hidden_size=32, num_layers=1),
    warm_start=WarmStartConfig({"oracle": 1.0}, num_episodes=12, epochs=1, batch_episodes=4),
    train=RLConfig(steps=2, prompts_per_step=2, group_size=2, max_tokens=12),
    eval=EvalConfig(every=0, num_tasks=2, final_num_tasks=200),
    run=RunConfig(tensorboard=False),
)
ENV, MODEL = CONFIG.env, CONFIG.model


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"env": replace(ENV, id="test/AskNothingHeldOut-v0")},
            ConfigError,
            r"to evaluate on.*'eval' does not",
        ),
        ({"env": replace(ENV, eval_split="none")}, ConfigError, r"its split 'none' is empty.*env\.eval_split"),
        ({"env": replace(ENV, train_split="trian")}, ConfigError, r"'trian' does not exist; there is 'train', 'eval'"),
        ({"env": replace(ENV, kwargs={"foo": 1})}, ConfigError, r"cannot be made with \['foo'\]"),
        ({"train": replace(CONFIG.train, group_size=0)}, ConfigError, r"train\.group_size = 0: expected at least 1"),
        ({"train": replace(CONFIG.train, group_size=1)}, ConfigError, r"a group of one teaches nothing; use 2 or more"),
        (
            {"train": replace(CONFIG.train, group_size=1, advantage="reinforce_plus_plus")},
            ConfigError,
            "skip_zero_advantage = false",
        ),
        ({"train": replace(CONFIG.train, lr=-1.0)}, ConfigError, r"train\.lr = -1\.0: expected more than 0"),
        ({"run": replace(CONFIG.run, checkpoint_every=0)}, ConfigError, r"run\.checkpoint_every = 0"),
        ({"seed": -1}, ConfigError, "seed = -1: expected at least 0"),
        ({"model": replace(MODEL, path="/absent")}, ModelError, "/absent is not a folder"),
        ({"model": replace(MODEL, chat_format="qwen")}, ModelError, "no chat format is named 'qwen'"),
        ({"model": replace(MODEL, device="gpu")}, ConfigError, r"use 'auto', 'cpu' or 'cuda'"),
        ({"env": replace(ENV, id="test/AskBrokenOracle-v0")}, RolloutError, "IndexError: list index out of range"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(
    change: dict[str, Any], error: type[AgentRLError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrl.rollout.runner._MAX_BACKOFF_S", 0.0)
    with pytest.raises(error, match=message):
        train(replace(CONFIG, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_never_began_spares_what_else_is_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError):
        train(replace(CONFIG, model=replace(MODEL, chat_format="qwen")), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_without_a_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "run", on_progress=stop)
    assert resume(tmp_path / "run")["after"]["n_tasks"] == 3


def test_fewer_demonstrations_than_a_batch_still_teach(tmp_path: Path) -> None:
    few = replace(CONFIG, warm_start=replace(CONFIG.warm_start, num_episodes=3), train=replace(CONFIG.train, steps=0))
    train(few, tmp_path / "run")
    assert '"phase":"warm_start"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_model_of_ones_own_needs_no_demonstrations(tmp_path: Path) -> None:
    train(replace(CONFIG, train=replace(CONFIG.train, steps=0)), tmp_path / "first")
    own = replace(CONFIG, model=ModelConfig(path=str(tmp_path / "first" / "model")), warm_start=WarmStartConfig())
    assert train(own, tmp_path / "second")["steps"] == 2


def test_progress_counts_the_tasks_there_are(tmp_path: Path) -> None:
    totals: set[int] = set()
    train(CONFIG, tmp_path / "run", on_progress=lambda p: totals.add(p.total) if p.phase == "eval_before" else None)
    assert totals == {3}


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregation": "constant"},
        {"aggregation": "sequence"},
        {"kl_coef": 0.1},
        {"num_minibatches": 2, "num_epochs": 2},
    ]
    + [{"advantage": name} for name in ("dr_grpo", "rloo", "reinforce_plus_plus")]
    + [{"dynamic_sampling": True}, {"temperature": 0.7, "top_p": 0.8}],
)
def test_each_setting_of_the_update_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    train_settings = replace(CONFIG.train, prompts_per_step=2, group_size=4, **settings)
    train(replace(CONFIG, env=replace(ENV, id="test/AskNoisy-v0"), train=train_settings), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "rl"]
    assert len(steps) == 2
    assert all(step["rollout/groups_trained"] > 0 for step in steps)
    assert all(0 < step["grad/norm"] < 1000 and math.isfinite(step["loss/policy"]) for step in steps)
    if "num_epochs" not in settings:  # before its first update the model is the one that sampled
        assert [step["policy/ratio_mean"] for step in steps] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_a_folder_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        resume(tmp_path)
