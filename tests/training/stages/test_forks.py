"""Stages that fork episodes: what is recorded, counted and trained, learning, resume, and refused settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.env.registry import register
from agentrl.errors import ConfigError
from agentrl.learning.credit.forked import Forked
from agentrl.learning.learner import LearnerSettings
from agentrl.rollout.sources.forked import Forks
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.algorithms import stage_of
from agentrl.training.settings import EnvConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.trajectory import Task, Trajectory
from tests.training.stages.conftest import Agree, metrics_of

FAST = LearnerSettings(lr=3e-3)
TWICE = {"env": EnvConfig("test/AgreeInTurn-v0")}
FORKED = Reinforce(
    steps=4, playing=Playing(3, 4, forks=Forks(2, "every")), credit=Forked(), checkpoint_every=2, learner=FAST
)


@register("test/AgreeInTurn-v0", max_turns=2)
class AgreeInTurn(Agree):
    """Say yes to the first question, and to the second."""

    def start(self, task: Task) -> str:
        self.yeses: list[bool] = []
        return super().start(task)

    def respond(self, text: str) -> str | None:
        self.yeses.append(text == "yes")
        return self.start_again() if len(self.yeses) < 2 else None

    def start_again(self) -> str:
        return f"Number {self.task.data['n']}: yes or no?"

    def score(self, answer: str | None) -> float:
        return sum(self.yeses) / 2


def recorded(run: Path, step: int = 1) -> list[Trajectory]:
    return [t for t in TrajectoryStore(run / "trajectories.jsonl") if t.labels.step == step]


def test_continuations_train_and_count_in_no_measure(run_of: Any) -> None:
    run = run_of({"rl": FORKED}, **TWICE)
    episodes = recorded(run)
    whole = [t for t in episodes if t.fork is None]
    assert len(whole) == 12
    assert len(episodes) == 12 + 2 * 12
    first = metrics_of(run, "rl")[0]
    assert first["rollout/continuations"] == 24
    assert first["rollout/continuation_faults"] == 0
    assert first["rollout/reward_mean"] == pytest.approx(np.mean([t.reward for t in whole]))
    assert first["rollout/tokens"] == first["train/tokens"] == sum(t.num_sampled_tokens for t in episodes)
    assert first["train/rows"] == 36


def test_it_learns(run_of: Any) -> None:
    playing = replace(FORKED.playing, prompts_per_step=6)
    steps = metrics_of(run_of({"rl": replace(FORKED, steps=12, playing=playing)}, **TWICE), "rl")
    assert np.mean([s["rollout/reward_mean"] for s in steps[-3:]]) > 0.9 > 0.7 > steps[0]["rollout/reward_mean"]


def test_a_resumed_run_is_bit_identical(run_of: Any, interrupted_run_of: Any) -> None:
    stages = {"rl": FORKED}
    whole, resumed = run_of(stages, **TWICE), interrupted_run_of(stages, after=3, **TWICE)
    assert metrics_of(resumed, "rl") == metrics_of(whole, "rl")
    actions = [[(t.fork, [turn.action for turn in t.turns]) for t in recorded(run, 4)] for run in (whole, resumed)]
    assert actions[0] == actions[1]


def test_pairs_of_continuations_share_their_beginning(run_of: Any) -> None:
    stage = Prefer(steps=2, playing=Playing(4, 2, forks=Forks(3, "every")), learner=FAST)
    run = run_of({"dpo": stage}, **TWICE)
    steps = metrics_of(run, "dpo")
    alike: dict[Any, set[float]] = {}
    for t in recorded(run):
        alike.setdefault(t.fork or t.group_id, set()).add(t.reward)
    assert steps[0]["preference/pairs"] == sum(len(rewards) > 1 for rewards in alike.values()) > 4


def test_the_algorithm_by_name_forks() -> None:
    stage = stage_of("forked", steps=3)
    assert isinstance(stage, Reinforce)
    assert (stage.credit, stage.playing.forks, stage.playing.group_size) == (Forked(), Forks(), 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"playing": Playing(3, 4)}, "set forks = {}, or algorithm"),
        ({"credit": Reinforce().credit}, "'grpo' would take continuations for episodes of their own"),
    ],
)
def test_forks_and_their_estimator_go_together(run_of: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_of({"rl": replace(FORKED, **changes)}, **TWICE)
