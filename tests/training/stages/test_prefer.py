"""The stage `prefer` as a user runs it: preferences are learnt, from played and from stored episodes; exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.errors import ConfigError
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.rollout.feedback.confident import PreferConfident
from agentrl.rollout.feedback.rewarded import PreferRewarded
from agentrl.rollout.sources.recorded import Recorded
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from tests.training.stages.conftest import metrics_of

RunOf = Callable[..., Path]
FAST = LearnerSettings(lr=3e-3)
PLAYED = Prefer(steps=6, playing=Playing(4, 8), checkpoint_every=2, learner=FAST)


def episodes(run: Path) -> list[Any]:
    return [
        (t.labels.step, t.episode_id, t.reward, [turn.action.token_ids for turn in t.turns])
        for t in TrajectoryStore(run / "trajectories.jsonl")
    ]


def test_the_rewarded_answer_is_learnt(run_of: RunOf) -> None:
    stage = replace(PLAYED, steps=8, playing=Playing(6, 8), learner=LearnerSettings(lr=1e-3))
    steps = metrics_of(run_of({"dpo": stage}), "dpo")
    # Policy and reference begin as the same model: no pair has a margin, and the loss is that of a coin.
    assert steps[0]["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[0]["preference/margin"] == pytest.approx(0.0, abs=1e-3)
    assert np.mean([step["preference/accuracy"] for step in steps[1:]]) > 0.5
    assert all(step["loss/preference"] < math.log(2) for step in steps[1:])
    assert np.mean([step["rollout/success"] for step in steps[-2:]]) > steps[0]["rollout/success"] + 0.2
    assert all(0 < step["preference/pairs"] <= 6 for step in steps)
    assert [step["version"] for step in steps] == list(range(1, 9))


def test_stored_pairs_are_learnt_and_not_recorded_again(run_of: RunOf) -> None:
    sampled = run_of({"rl": Reinforce(steps=1, playing=Playing(4, 8), learner=LearnerSettings(lr=0.0))}, "sampled")
    store = str(sampled / "trajectories.jsonl")
    stored = Prefer(steps=5, playing=Playing(4), data=(Recorded(store, stage="rl"),), learner=FAST)
    run = run_of({"dpo": stored}, "learnt")
    steps = metrics_of(run, "dpo")
    losses = [step["loss/preference"] for step in steps]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * math.log(2)
    assert [step["preference/accuracy"] for step in steps[1:]] == [1.0] * 4
    assert not (run / "trajectories.jsonl").exists() or not episodes(run)


def preference_file(path: Path) -> str:
    """Yes is preferred over no for every task of Agree."""
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "yes"), ("rejected", "no"))}
    asks = [[{"role": "user", "content": f"Number {n}: yes or no?"}] for n in range(12)]
    path.write_text("\n".join(json.dumps({"prompt": ask, **sides}) for ask in asks))
    return str(path)


def test_a_file_of_preferences_is_learnt(run_of: RunOf, tmp_path: Path) -> None:
    pairs = preference_file(tmp_path / "pairs.jsonl")
    stage = Prefer(steps=8, playing=Playing(6), pairs=pairs, learner=FAST)
    run = run_of({"dpo": stage, "after": Evaluate()})
    steps = metrics_of(run, "dpo")
    assert steps[0]["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert {step["preference/pairs"] for step in steps} == {6.0}
    assert json.loads((run / "summary.json").read_text())["after"]["greedy"]["mean"] == 1.0


def test_a_stage_on_a_file_resumes_bit_identically(run_of: RunOf, interrupted_run_of: RunOf, tmp_path: Path) -> None:
    stage = replace(PLAYED, playing=Playing(4), pairs=preference_file(tmp_path / "pairs.jsonl"))
    whole, resumed = run_of({"dpo": stage}), interrupted_run_of({"dpo": stage}, after=3)
    assert metrics_of(resumed, "dpo") == metrics_of(whole, "dpo")


def test_stored_groups_give_several_pairs(run_of: RunOf) -> None:
    frozen = Reinforce(steps=2, playing=Playing(12, 8), learner=LearnerSettings(lr=0.0))
    sampled = run_of({"rl": frozen}, "sampled")
    found: dict[str, list[float]] = {}
    for episode in TrajectoryStore(sampled / "trajectories.jsonl"):
        found.setdefault(episode.task.id, []).append(episode.reward)
    expected = sum(min(rewards.count(0.0), rewards.count(1.0), 5) for rewards in found.values())
    stage = Prefer(
        steps=1, playing=Playing(12), data=(Recorded(str(sampled)),), feedback=(PreferRewarded(pairs=5),), learner=FAST
    )
    (step,) = metrics_of(run_of({"dpo": stage}, "learnt"), "dpo")
    assert step["preference/pairs"] == expected > 12


def test_a_resumed_stage_is_bit_identical(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    whole, resumed = run_of({"dpo": PLAYED}), interrupted_run_of({"dpo": PLAYED}, after=3)
    assert metrics_of(resumed, "dpo") == metrics_of(whole, "dpo")
    assert episodes(resumed) == episodes(whole)


def test_episodes_without_a_preference_change_nothing(run_of: RunOf, caplog: pytest.LogCaptureFixture) -> None:
    never = Prefer(steps=1, playing=Playing(2, 2), feedback=(PreferConfident(margin=1e9),), learner=FAST)
    (step,) = metrics_of(run_of({"dpo": never}), "dpo")
    assert step["preference/pairs"] == 0
    assert "loss/preference" not in step
    assert "no episode was preferred over another" in caplog.text


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Prefer(data=(Recorded("absent/trajectories.jsonl"),)), r"stages\.dpo\.data\[0\]: there is no store at absent"),
        (Prefer(pairs="absent.jsonl"), r"stages\.dpo\.pairs: cannot read absent.jsonl"),
        (Prefer(pairs="a", data=(Recorded("b"),)), r"stages\.dpo has data and pairs: give one of them"),
        (Prefer(playing=Playing(4, 1)), r"stages\.dpo\.playing\.group_size = 1: a pair needs two episodes"),
        (Prefer(objective=PPOClip()), r"stages\.dpo\.objective: ppo_clip is no loss over pairs"),
    ],
)
def test_what_cannot_work_is_refused_before_a_folder_is_made(
    stage: Prefer, message: str, run_of: RunOf, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of({"dpo": stage})
    assert not (tmp_path / "run").exists()
