"""Measures of a step's episodes, on hand-made groups."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from agentrl.messages import Action
from agentrl.training.stages.health import discards, endings, group_kinds, lags, prompt_information, speeds
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn


def episode(reward: float = 0.0, ids: tuple[int, ...] = (1,), finish: str = "stop", **changes: Any) -> Trajectory:
    action = Action("", token_ids=ids, logprobs=(0.0,) * len(ids), finish_reason=finish)
    return Trajectory(EnvRef("e"), Task("t"), 0, [Turn((), action, reward)], **changes)


def group(*episodes: Trajectory) -> TrajectoryGroup:
    return TrajectoryGroup("g", list(episodes))


FAULT = Ending("fault", "EnvFault: x", "server")


def test_groups_that_fail_succeed_and_differ() -> None:
    groups = [
        group(episode(0), episode(0.5)),  # differ in reward, but none succeeds
        group(episode(1), episode(1), replace(episode(0, ending=FAULT), turns=[])),  # discarded before it began
        group(episode(1), episode(0)),
        group(episode(1), episode(0, labels=Labels(mode="greedy"))),  # nor does a baseline
        group(replace(episode(0, ending=FAULT), turns=[])),  # no episode that counts: no group
    ]
    assert group_kinds(groups) == {
        "rollout/groups_failed": 0.25,
        "rollout/groups_solved": 0.5,
        "rollout/groups_mixed": 0.25,
    }
    assert group_kinds([]) == {"rollout/groups_failed": 0, "rollout/groups_solved": 0, "rollout/groups_mixed": 0}


def test_how_old_tokens_are_when_they_train() -> None:
    def played(*versions: int, **changes: Any) -> Trajectory:
        trajectory = episode(**changes)
        trajectory.turns = [Turn((), Action("x", token_ids=(1,), versions=(version,))) for version in versions]
        return trajectory

    forked = played(1, 5, fork=("e", 1))  # the first turn belongs to another episode
    assert lags([group(played(3, 5), forked)], version=5) == {"rollout/lag_max": 2.0, "rollout/lag_mean": 2 / 3}
    assert lags([group(episode())], version=5) == {}, "a policy that does not know its versions"


def test_why_episodes_end() -> None:
    found = endings(
        [
            episode(ending=Ending("limit", "max_turns"), finish="length"),
            episode(ending=Ending("answer")),
            episode(ending=Ending("answer")),
            episode(ending=Ending("error", "refused")),
            episode(ending=FAULT, finish="length"),
        ]
    )
    assert found == {
        "rollout/ended_answer": 0.5,
        "rollout/ended_tool": 0,
        "rollout/ended_environment": 0,
        "rollout/ended_limit": 0.25,
        "rollout/ended_error": 0.25,
        "rollout/turns_cut_off": 0.25,
    }


def test_discards_are_counted_by_cause() -> None:
    unknown = Ending("fault", "EnvFault: x")
    found = discards([episode(), episode(ending=FAULT), episode(ending=FAULT), episode(ending=unknown)])
    by_cause = {"rollout/discarded_server": 2.0, "rollout/discarded_unknown": 1.0}
    assert found == {**by_cause, "rollout/discarded_after_actions": 3.0}
    before = episode(ending=FAULT)
    before.turns = []
    assert discards([before, episode()]) == {"rollout/discarded_server": 1.0}


def test_replies_that_tell_the_prompt_carry_its_information() -> None:
    """Two prompts, each always answered by a token of its own: one bit, less what chance gives."""
    told = [group(*[episode(ids=(7,))] * 8), group(*[episode(ids=(9,))] * 8)]
    found = prompt_information(told)
    assert 0.5 < found <= math.log(2)


def test_replies_from_one_template_carry_none_whatever_their_entropy() -> None:
    varied = [episode(ids=(n,)) for n in range(8)]
    assert prompt_information([group(*varied), group(*varied)]) == 0.0
    assert prompt_information([group(*[episode(ids=(7,))] * 4)] * 3) == 0.0


def test_replies_that_are_all_different_say_no_more_than_chance() -> None:
    """Each of 16 episodes has a token of its own, so that the plain estimate would be ln 2 with nothing behind it."""
    groups = [group(*[episode(ids=(8 * g + n,)) for n in range(8)]) for g in range(2)]
    assert prompt_information(groups) == pytest.approx(0.0, abs=1e-12)


def test_information_needs_two_prompts_with_sampled_tokens() -> None:
    assert math.isnan(prompt_information([group(episode())]))
    assert math.isnan(prompt_information([group(episode()), group(episode(ids=()))]))


def test_speeds_and_shares() -> None:
    metrics = {
        "rollout/tokens": 300.0,
        "train/tokens": 100.0,
        "time/sample_s": 3.0,
        "time/learn_s": 1.0,
        "time/record_s": 0.0,
    }
    assert speeds(metrics) == {
        "speed/sampled_tokens_per_s": 100.0,
        "speed/trained_tokens_per_s": 100.0,
        "share/sample": 0.75,
        "share/learn": 0.25,
        "share/record": 0.0,
    }
    assert speeds({"loss/supervised": 1.0, "train/tokens": 5.0}) == {}
