"""A reward model is trained on pairs, and RL learns from its scores alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file

from agentrl.errors import ConfigError, ModelError
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.preference import BradleyTerry
from agentrl.policy import model_folder
from agentrl.policy.model_folder import VALUE_HEAD
from agentrl.rollout.feedback.reward_model import PART, RewardModel
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.algorithms import stage_of
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import RunConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.trajectory import Trajectory, TrajectoryGroup
from tests.training.stages.conftest import metrics_of

RunOf = Callable[..., Path]
FAST = LearnerSettings(lr=3e-3)
PAIRS = Prefer(steps=8, playing=Playing(6, 8), objective=BradleyTerry(), checkpoint_every=2, learner=FAST)


@pytest.fixture
def reward_model(run_of: RunOf) -> Path:
    return run_of({"rm": PAIRS}, "rm")


def played(run: Path) -> list[Trajectory]:
    return [t for t in TrajectoryStore(run / "trajectories.jsonl") if t.labels.stage in ("rm", "rl")]


async def scored(feedback: RewardModel, episodes: list[Trajectory]) -> list[Trajectory]:
    return (await feedback([TrajectoryGroup("g", episodes)]))[0].trajectories


async def test_right_answers_score_higher_and_nothing_else_changes(reward_model: Path) -> None:
    episodes = played(reward_model)
    found = await scored(RewardModel(str(reward_model), weight=2.0, keep=0.5), episodes)
    scores = np.array([t.turns[-1].reward_components[PART] for t in found])
    right = np.array([t.success for t in episodes])
    assert scores[right].mean() > scores[~right].mean() + 0.5
    for before, after, score in zip(episodes, found, scores, strict=True):
        assert after.reward == pytest.approx(0.5 * before.reward + 2.0 * score)
        assert after.success == before.success
        assert PART not in before.reward_components


async def test_a_score_is_the_head_on_the_state_before_the_last_token(reward_model: Path) -> None:
    """Against a plain forward pass of transformers, one episode at a time."""
    model, _ = model_folder.load(reward_model / "model")
    numbers = json.loads((reward_model / "model" / VALUE_HEAD).read_text())
    episodes = played(reward_model)[:6]
    for before, after in zip(episodes, await scored(RewardModel(str(reward_model / "model")), episodes), strict=True):
        action = before.turns[-1].action
        ids = torch.tensor([[*action.prompt_ids, *action.token_ids]])
        with torch.no_grad():
            state = model(ids, output_hidden_states=True).hidden_states[-1][0, -2]
        expected = float(state @ torch.tensor(numbers["weight"])) + numbers["bias"][0]
        assert after.turns[-1].reward_components[PART] == pytest.approx(expected, abs=1e-5)


def test_a_stage_that_trains_after_it_leaves_no_reward_model(run_of: RunOf) -> None:
    run = run_of({"rm": replace(PAIRS, steps=1), "rl": Reinforce(steps=1, playing=Playing(2, 2), learner=FAST)})
    assert not (run / "model" / VALUE_HEAD).exists()


def test_rl_learns_from_the_scores_alone_and_records_the_reward(run_of: RunOf, reward_model: Path) -> None:
    feedback = (RewardModel(str(reward_model), keep=0.0),)
    learner = LearnerSettings(lr=1e-2)
    run = run_of({"rl": Reinforce(steps=10, playing=Playing(6, 8), feedback=feedback, learner=learner)}, "rl")
    steps = metrics_of(run, "rl")
    assert np.mean([step["rollout/success"] for step in steps[-2:]]) > steps[0]["rollout/success"] + 0.2
    assert {t.reward for t in played(run)} == {0.0, 1.0}
    assert not (run / "model" / VALUE_HEAD).exists()


def test_a_reward_model_that_was_interrupted_comes_out_the_same(
    run_of: RunOf, interrupted_run_of: RunOf, reward_model: Path
) -> None:
    resumed = interrupted_run_of({"rm": PAIRS}, after=5)
    assert (resumed / "model" / VALUE_HEAD).read_bytes() == (reward_model / "model" / VALUE_HEAD).read_bytes()


def test_success_chooses_no_weights_of_a_reward_model(run_of: RunOf) -> None:
    run = run_of({"rm": PAIRS}, run=RunConfig(evaluate_every=2, evaluate_tasks=16, tensorboard=False))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stages"]["rm"] == {}


def test_a_folder_without_a_head_is_refused_before_the_run(
    run_of: RunOf, undecided: ModelConfig, tmp_path: Path
) -> None:
    stage = stage_of("grpo", steps=1, feedback=[{"kind": "reward_model", "path": str(undecided.path)}])
    with pytest.raises(ConfigError, match=r"rl\.feedback\[0\]\.path = .* is no reward model"):
        run_of({"rl": stage}, "refused")
    assert not (tmp_path / "refused").exists()


async def test_a_head_of_another_model_and_another_tokenizer_are_refused(reward_model: Path) -> None:
    model = reward_model / "model"
    episodes = played(reward_model)[:1]
    turn = episodes[0].turns[0]
    shifted = tuple(i + 1 for i in turn.action.prompt_ids or ())
    episodes[0].turns[0] = structs.replace(turn, action=structs.replace(turn.action, prompt_ids=shifted))
    with pytest.raises(ModelError, match="another tokenizer"):
        await scored(RewardModel(str(model)), episodes)
    (model / VALUE_HEAD).write_text(json.dumps({"weight": [0.0] * 3, "bias": [0.0]}))
    moved = model.rename(reward_model / "moved")
    with pytest.raises(ModelError, match="hidden size of 3"):
        await scored(RewardModel(str(moved)), episodes)


def of_judge(keep: float = 0.0, **settings: Any) -> Reinforce:
    return Reinforce(playing=Playing(6, 8), feedback=(RewardModel(stage="judge", keep=keep),), **settings)


APART = replace(PAIRS, apart=True)


def test_a_reward_model_of_an_earlier_stage_is_learnt_from_and_the_policy_stays(
    run_of: RunOf, undecided: ModelConfig
) -> None:
    """RL with a rate of 0 leaves the model as it was before the reward model was trained."""
    stages = {"judge": APART, "rl": of_judge(steps=2, learner=LearnerSettings(lr=0.0))}
    run = run_of(stages)
    assert undecided.path is not None
    before, after = (load_file(Path(path) / "model.safetensors") for path in (undecided.path, run / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    judged, _ = model_folder.load(run / "reward_models" / "judge")
    assert any(not torch.equal(before[name], p) for name, p in judged.named_parameters() if name in before)
    assert not (run / "model" / VALUE_HEAD).exists()

    learnt = run_of({"judge": APART, "rl": of_judge(steps=10, learner=LearnerSettings(lr=1e-2))}, "learnt")
    steps = metrics_of(learnt, "rl")
    assert np.mean([step["rollout/success"] for step in steps[-2:]]) > steps[0]["rollout/success"] + 0.2


@pytest.mark.parametrize("after", [3, 5])
def test_a_run_with_a_reward_model_of_its_own_resumes_exactly(
    run_of: RunOf, interrupted_run_of: RunOf, after: int
) -> None:
    """Cut off while the reward model is trained, and while the policy learns from it."""
    stages = {"judge": replace(APART, steps=4), "rl": of_judge(steps=6, learner=FAST, checkpoint_every=2)}
    whole, resumed = run_of(stages, "whole"), interrupted_run_of(stages, after=after)
    for name in ("model", "reward_models/judge"):
        one, other = (load_file(run / name / "model.safetensors") for run in (whole, resumed))
        assert all(torch.equal(one[key], other[key]) for key in one)
    head = Path("reward_models") / "judge" / VALUE_HEAD
    assert (whole / head).read_bytes() == (resumed / head).read_bytes()


def test_ppo_learns_from_the_reward_model_too(run_of: RunOf) -> None:
    feedback = [{"kind": "reward_model", "stage": "judge", "keep": 0.0}]
    playing = {"prompts_per_step": 2, "group_size": 2}
    ppo = stage_of("ppo", steps=1, kl_coef=0.05, feedback=feedback, playing=playing)
    run = run_of({"judge": replace(APART, steps=1), "rl": ppo})
    assert {"loss/value", "loss/reference_kl"} & metrics_of(run, "rl")[0].keys()


def test_a_stage_without_a_reward_model_is_refused(run_of: RunOf, tmp_path: Path) -> None:
    for stages in ({"rl": of_judge()}, {"judge": PAIRS, "rl": of_judge()}, {"rl": of_judge(), "judge": APART}):
        with pytest.raises(ConfigError, match="no earlier stage 'judge' trains a reward model"):
            run_of(stages, "refused")
    both = Reinforce(feedback=(RewardModel("folder", "judge"),))
    with pytest.raises(ConfigError, match="give one of them"):
        run_of({"judge": APART, "rl": both}, "refused")
    with pytest.raises(ConfigError, match="dpo trains a policy"):
        run_of({"judge": Prefer(apart=True)}, "refused")
    assert not (tmp_path / "refused").exists()
