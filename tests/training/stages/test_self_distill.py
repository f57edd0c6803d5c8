"""The stage `self_distill`: what is shown to the teacher, what each token earns, and exact resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agentrl.errors import ConfigError
from agentrl.learning.learner import LearnerSettings
from agentrl.messages import Action, Message
from agentrl.policy import model_folder
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import EnvConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.self_distill import PROMPT, SelfDistill, split
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn
from tests.endings import ENDINGS
from tests.training.stages.conftest import metrics_of

RunOf = Callable[..., Path]
ONE = SelfDistill(steps=1, playing=Playing(3, 4), learner=LearnerSettings(lr=0.0))


def episode(name: str, reward: float, status: str = "terminated") -> Trajectory:
    turns = [Turn((Message("user", "2+2?"),), Action(name), reward)]
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, ENDINGS[status], episode_id=name, labels=Labels())


def test_the_best_episode_is_shown_and_the_others_learn() -> None:
    group = TrajectoryGroup("g", [episode("a", 0.0), episode("b", 1.0), episode("c", 1.0), episode("d", 0.0, "fault")])
    found = split(group, 1.0)
    assert found is not None
    assert found[0].episode_id == "b"
    assert [t.episode_id for t in found[1].trajectories] == ["a", "c"]
    assert split(group, 1.5) is None
    assert split(TrajectoryGroup("g", [episode("a", 1.0), episode("d", 1.0, "fault")]), 1.0) is None


def test_a_token_earns_its_logprob_with_the_answer_in_the_prompt_minus_that_without(
    run_of: RunOf, undecided: ModelConfig
) -> None:
    """Against a plain forward pass of transformers over the same tokens behind the teacher's prompt."""
    run = run_of({"rl": ONE})
    model, tokenizer = model_folder.load(str(undecided.path))
    chat = LocalPolicy(model, tokenizer).format
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in TrajectoryStore(run / "trajectories.jsonl").read(stage="rl"):
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    gained = []
    for episodes in groups.values():
        lesson = split(TrajectoryGroup("g", episodes), 1.0)
        if lesson is None:
            continue
        shown, pupils = lesson
        question = shown.turns[0].observation[-1].content
        text = PROMPT.format(question=question, answer=shown.turns[0].action.text)
        prompt = chat.render_first([*shown.turns[0].observation[:-1], Message("user", text)], shown.tools)
        for pupil in pupils.trajectories:
            action = pupil.turns[0].action
            ids = torch.tensor([[*prompt, *action.token_ids]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(prompt) - 1 : -1]
            told = logits.log_softmax(-1)[range(len(action.token_ids)), list(action.token_ids)]
            gained.extend((told.numpy() - np.array(action.logprobs)).tolist())
    assert gained
    (step,) = metrics_of(run, "rl")
    assert step["distill/teacher_kl"] == pytest.approx(-np.mean(gained), abs=1e-4)


def test_an_interrupted_stage_comes_out_the_same(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    stages = {"rl": SelfDistill(steps=4, playing=Playing(3, 4), checkpoint_every=2, learner=LearnerSettings(lr=1e-3))}
    one, other = run_of(stages), interrupted_run_of(stages, after=3)
    before, after = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert metrics_of(one, "rl") == metrics_of(other, "rl")


def test_without_a_lesson_nothing_changes(run_of: RunOf, undecided: ModelConfig) -> None:
    run = run_of({"rl": SelfDistill(steps=1, playing=Playing(2, 2), least=2.0)})
    before, after = (load_file(Path(path) / "model.safetensors") for path in (str(undecided.path), run / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["rollout/groups_trained"] == 0.0


def test_what_cannot_be_distilled_is_refused(run_of: RunOf) -> None:
    with pytest.raises(ConfigError, match="set group_size to 2 or more"):
        run_of({"rl": SelfDistill(playing=Playing(2, 1))}, "refused")
    with pytest.raises(ConfigError, match="environments of one turn"):
        run_of({"rl": ONE}, "refused", env=EnvConfig("test/AgreeTwice-v0"))
