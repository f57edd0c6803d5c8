"""The stage `reinforce` as a user runs it: several environments, value heads, sampling ahead, resume."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.errors import EnvNotFound
from agentrl.learning.credit.base import Credit
from agentrl.learning.credit.gae import TurnGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.credit.remax import ReMax
from agentrl.learning.learner import LearnerSettings
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.run import EnvConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from tests.training.stages.conftest import CONFIG, metrics_of

RunOf = Callable[..., Path]
FAST = LearnerSettings(lr=3e-3)
AHEAD = Reinforce(
    steps=6, playing=Playing(3, 4, max_lag=1), skip_zero_advantage=False, checkpoint_every=2, learner=FAST
)


def episodes(run: Path) -> list[Any]:
    return [
        (t.labels.step, t.episode_id, t.task.id, t.seed, t.reward, [turn.action.token_ids for turn in t.turns])
        for t in TrajectoryStore(run / "trajectories.jsonl")
    ]


def groups_by_step(run: Path) -> list[list[tuple[str, str, int]]]:
    """Group id, task and seed of each group, step by step."""
    steps: dict[int, dict[tuple[str, str, int], None]] = {}
    for t in TrajectoryStore(run / "trajectories.jsonl"):
        steps.setdefault(t.labels.step, {}).setdefault((t.group_id, t.task.id, t.seed))
    return [list(steps[number]) for number in sorted(steps)]


def test_ppo_over_two_bundled_environments_sampling_ahead(tmp_path: Path) -> None:
    calculator = "agentrl/Calculator-v0"
    config = replace(
        CONFIG,
        env=EnvConfig("agentrl/Shop-v0", max_turns=3),
        sampling=SamplingConfig(max_tokens=16),
        stages={
            "copy": Supervise({"oracle": 1.0}, num_episodes=32, epochs=1, batch_episodes=16),
            "ppo": Reinforce(
                steps=4,
                playing=Playing(4, 2, max_lag=1, mixture={"own": 0.5, calculator: 0.5}),
                credit=TurnGAE(),
                skip_zero_advantage=False,
                learner=FAST,
            ),
        },
    )
    train(config, tmp_path / "run")
    steps = metrics_of(tmp_path / "run", "ppo")
    assert [step["rollout/groups_trained"] for step in steps] == [4.0] * 4
    assert all(math.isfinite(step["loss/policy"]) and math.isfinite(step["loss/value"]) for step in steps)
    groups: dict[str, list[Any]] = {}
    for t in TrajectoryStore(tmp_path / "run" / "trajectories.jsonl"):
        groups.setdefault(t.group_id, []).append((t.env.id, dict(t.env.limits)))
    assert len(groups) == 16
    for name, members in groups.items():
        own = name.startswith("own-")
        expected = ("agentrl/Shop-v0", {"max_turns": 3}) if own else (calculator, {})
        assert members == [expected] * 2
    assert {name.rpartition("-")[0] for name in groups} == {"own", calculator}
    assert any("rollout/success@Calculator-v0" in step for step in steps)


def test_reward_is_learnt_from_two_environments_with_a_value_head(run_of: RunOf) -> None:
    playing = Playing(4, 8, max_lag=1, mixture={"own": 1.0, "test/AgreeTwice-v0": 1.0})
    learner = replace(FAST, lr=1e-2)
    stage = Reinforce(steps=8, playing=playing, credit=TurnGAE(), skip_zero_advantage=False, learner=learner)
    run = run_of({"ppo": stage})
    steps = metrics_of(run, "ppo")
    assert np.mean([s["rollout/success"] for s in steps[-2:]]) > steps[0]["rollout/success"] + 0.2
    assert steps[-1]["value/error"] < steps[0]["value/error"]
    assert {t.env.id for t in TrajectoryStore(run / "trajectories.jsonl")} == {"test/Agree-v0", "test/AgreeTwice-v0"}


def test_sampling_ahead_uses_tokens_at_most_one_update_old(run_of: RunOf) -> None:
    """The weights of step N have version N - 1; those of the batch before are one older."""
    lags = Counter(
        t.labels.step - 1 - version
        for t in TrajectoryStore(run_of({"rl": AHEAD}) / "trajectories.jsonl")
        for turn in t.turns
        for version in turn.action.versions or ()
    )
    assert set(lags) == {0, 1}


def test_a_resumed_stage_that_samples_ahead_skips_no_task_and_trains_none_twice(
    run_of: RunOf, interrupted_run_of: RunOf
) -> None:
    whole, resumed = run_of({"rl": AHEAD}), interrupted_run_of({"rl": AHEAD}, after=3)
    groups = groups_by_step(whole)
    assert groups_by_step(resumed) == groups
    assert [name for step in groups for name, _, _ in step] == [str(number) for number in range(18)]


def test_a_resumed_mixture_goes_on_with_the_same_groups(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    playing = replace(AHEAD.playing, mixture={"own": 1.0, "test/AgreeTwice-v0": 2.0})
    stages = {"rl": replace(AHEAD, playing=playing)}
    assert groups_by_step(interrupted_run_of(stages, after=3)) == groups_by_step(run_of(stages))


def test_a_resumed_stage_that_samples_in_turn_is_bit_identical(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    stages = {"rl": replace(AHEAD, playing=Playing(3, 4), credit=TurnGAE())}
    whole, resumed = run_of(stages), interrupted_run_of(stages, after=3)
    assert metrics_of(resumed, "rl") == metrics_of(whole, "rl")
    assert episodes(resumed) == episodes(whole)


def test_a_greedy_baseline_is_recorded_and_counts_nowhere(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    stage = Reinforce(
        steps=6, playing=Playing(4, 4), credit=ReMax(), skip_zero_advantage=False, checkpoint_every=2, learner=FAST
    )
    run = run_of({"rl": stage})
    steps = metrics_of(run, "rl")
    assert np.mean([s["rollout/success"] for s in steps[-3:]]) > steps[0]["rollout/success"]
    assert any(step["grad/norm"] > 0 for step in steps)
    recorded = list(TrajectoryStore(run / "trajectories.jsonl"))
    assert Counter((t.labels.step, t.labels.mode) for t in recorded) == {
        (step, mode): count for step in range(1, 7) for mode, count in (("sampled", 16), ("greedy", 4))
    }
    first = [t for t in recorded if t.labels.step == 1 and t.labels.mode == "sampled"]
    assert steps[0]["rollout/success"] == sum(t.success for t in first) / 16
    assert steps[0]["train/tokens"] == sum(t.num_sampled_tokens for t in first)
    assert steps[0]["train/rows"] == 16
    resumed = interrupted_run_of({"rl": stage}, after=3)
    assert metrics_of(resumed, "rl") == steps
    assert episodes(resumed) == episodes(run)


@pytest.mark.parametrize("credit", [GRPO(), TurnGAE()])
def test_episodes_without_a_sampled_token_skip_the_update(
    credit: Credit, run_of: RunOf, undecided: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """No prompt fits into the context, so every turn is empty."""
    stages = {"rl": replace(AHEAD, steps=1, credit=credit)}
    (step,) = metrics_of(run_of(stages, model=replace(undecided, max_context=4)), "rl")
    assert step["rollout/tokens_mean"] == 0
    assert "loss/policy" not in step
    assert "no episode has a sampled token" in caplog.text


@pytest.mark.parametrize("kind", [Reinforce, Prefer])
def test_a_misspelt_environment_of_a_mixture_is_refused_before_a_folder_is_made(kind: Any, tmp_path: Path) -> None:
    stages = {"copy": Supervise({"yes": 1.0}), "rl": kind(playing=Playing(mixture={"agentrl/Calculater-v0": 1.0}))}
    with pytest.raises(EnvNotFound, match="Did you mean 'agentrl/Calculator-v0'"):
        train(replace(CONFIG, model=ModelConfig(hidden_size=32), stages=stages), tmp_path / "run")
    assert not (tmp_path / "run").exists()
