"""What a run refuses before it begins: the key, and what to do; and no folder is left behind."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import AgentRLError, CheckpointError, ConfigError, ModelError, RolloutError
from agentrl.learning.credit.base import CREDITS
from agentrl.learning.credit.gae import TurnGAE
from agentrl.learning.credit.group_relative import ReinforcePlusPlus
from agentrl.learning.importance import IMPORTANCES, IcePop
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES
from agentrl.learning.objectives.regularizers import ReferenceKL
from agentrl.learning.objectives.value import Value
from agentrl.learning.shaping.base import SHAPINGS
from agentrl.tool_schema import tool
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train


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


STAGES = {
    "warm_start": Supervise({"oracle": 1.0}, num_episodes=12, epochs=1, batch_episodes=4),
    "before": Evaluate(),
    "rl": Reinforce(steps=2, playing=Playing(prompts_per_step=2, group_size=2)),
    "after": Evaluate(),
}
CONFIG = TrainConfig(
    env=EnvConfig("test/Ask-v0"),
    model=ModelConfig(hidden_size=32, num_layers=1),
    sampling=SamplingConfig(max_tokens=12),
    stages=STAGES,
    run=RunConfig(evaluate_every=0, tensorboard=False),
)


def rl(**changes: Any) -> dict[str, Any]:
    """The stages with other settings of `rl`; those of Playing go there."""
    playing = {k: changes.pop(k) for k in ("group_size", "prompts_per_step") if k in changes}
    own = STAGES["rl"]
    return {"stages": {**STAGES, "rl": replace(own, playing=replace(own.playing, **playing), **changes)}}


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
        (rl(group_size=0), ConfigError, r"stages\.rl\.playing\.group_size = 0: expected at least 1"),
        (rl(group_size=1), ConfigError, r"grpo compares.* a group of one teaches nothing; use 2 or more"),
        (
            rl(group_size=1, credit=ReinforcePlusPlus(group_baseline=True)),
            ConfigError,
            "reinforce_plus_plus compares",
        ),
        (rl(entropy_coef=-1.0), ConfigError, r"rl\.entropy_coef = -1\.0: expected at least 0"),
        (rl(checkpoint_every=0), ConfigError, r"stages\.rl\.checkpoint_every = 0"),
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


def test_an_interrupted_run_without_a_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "run", on_progress=stop)
    assert resume(tmp_path / "run")["after"]["n_tasks"] == 3


def test_fewer_demonstrations_than_a_batch_still_teach(tmp_path: Path) -> None:
    few = {**rl(steps=0)["stages"], "warm_start": replace(STAGES["warm_start"], num_episodes=3)}
    train(replace(CONFIG, stages=few), tmp_path / "run")
    assert '"stage":"warm_start"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_model_of_ones_own_needs_no_demonstrations(tmp_path: Path) -> None:
    train(replace(CONFIG, **rl(steps=0)), tmp_path / "first")
    without = {name: stage for name, stage in STAGES.items() if name != "warm_start"}
    own = replace(CONFIG, model=ModelConfig(path=str(tmp_path / "first" / "model")), stages=without)
    assert train(own, tmp_path / "second")["steps"] == 2


def test_progress_counts_the_tasks_there_are(tmp_path: Path) -> None:
    totals: set[int] = set()
    train(
        CONFIG,
        tmp_path / "run",
        on_progress=lambda p: totals.add(p.total) if p.stage == "before" and not p.metrics else None,
    )
    assert totals == {3}


def name_of(value: Any) -> Any:
    """A short name of a setting's value."""
    part = value[0] if isinstance(value, tuple) else value
    return type(part).__name__ if is_dataclass(part) else part


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregation": "constant"},
        {"aggregation": "sequence"},
        {"kl_coef": 0.1},
        {"entropy_coef": 0.01},
        {"learner": LearnerSettings(num_minibatches=2, num_epochs=2)},
        {"importance": IcePop(level="geometric")},
        {"kl_coef": 0.1, "kl_in": "reward"},
        {"kl_coef": 0.1, "kl": ReferenceKL("k1", "ratio")},
        {"credit": TurnGAE(whiten=True), "value": Value(clip=0.2)},
        {"weight": "differing"},
        {"dynamic_sampling": True},
        {"sampling": SamplingConfig(temperature=0.7, top_p=0.8, max_tokens=12)},
    ]
    + [{"credit": CREDITS.find(name)()} for name in CREDITS.names if name not in ("grpo", "forked")]
    + [{"objective": OBJECTIVES.find(name)()} for name in ("gspo", "cispo", "policy_gradient")]
    + [{"importance": IMPORTANCES.find(name)()} for name in IMPORTANCES.names]
    + [{"shaping": (SHAPINGS.find(name)(),)} for name in SHAPINGS.names],
    ids=lambda settings: " ".join(f"{k}={name_of(v)}" for k, v in settings.items()),
)
def test_each_setting_of_the_update_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    own = {k: v for k, v in settings.items() if k != "sampling"}
    sampling = settings.get("sampling", CONFIG.sampling)
    stages = rl(prompts_per_step=2, group_size=4, **own)
    train(replace(CONFIG, env=replace(ENV, id="test/AskNoisy-v0"), sampling=sampling, **stages), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "rl"]
    assert len(steps) == 2
    assert all(step["rollout/groups_trained"] > 0 for step in steps)
    assert all(0 < step["grad/norm"] < 1000 and math.isfinite(step["loss/policy"]) for step in steps)
    if "learner" not in settings:  # before its first update the model is the one that sampled
        assert [step["update/ratio_mean"] for step in steps] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_a_folder_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        resume(tmp_path)
