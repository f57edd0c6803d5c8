"""A trajectory's sums and verdicts are as documented."""

from __future__ import annotations

import pytest

from agentrl.messages import Action, Message
from agentrl.rollout.json_lines import decode_line, encode_line
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn
from tests.endings import ENDINGS


def test_sums_components_and_the_conversation():
    ask, told = Message("user", "q"), Message("tool", "r", (), "c", "f")
    trajectory = Trajectory(
        EnvRef("e"),
        Task("t"),
        0,
        [
            Turn((ask,), Action("a", token_ids=(1, 2)), 0.25, {"neat": 0.5}, (told,)),
            Turn((told,), Action("b"), 0.75, {"neat": 0.5, "right": 1.0}, (ask,)),
        ],
    )
    assert trajectory.reward == 1.0
    assert trajectory.reward_components == {"neat": 1.0, "right": 1.0}
    assert trajectory.num_sampled_tokens == 2
    assert [m.content for m in trajectory.messages()] == ["q", "a", "r", "b", "q"]
    assert TrajectoryGroup("g", [trajectory, Trajectory(EnvRef("e"), Task("t"), 0)]).rewards == [1.0, 0.0]
    assert Trajectory(EnvRef("e"), Task("t"), 0).messages() == []


@pytest.mark.parametrize(
    ("reward", "status", "info", "success"),
    [
        (1.0, "terminated", {}, True),
        (0.999, "terminated", {}, False),
        (1.0, "fault", {}, False),
        (0.0, "terminated", {"success": True}, True),
        (2.0, "terminated", {"success": False}, False),
    ],
)
def test_the_verdict(reward, status, info, success):
    turn = Turn((), Action("a"), reward)
    assert Trajectory(EnvRef("e"), Task("t"), 0, [turn], ENDINGS[status], info=info).success is success


def test_a_record_keeps_the_fingerprint_of_a_task():
    task = Task("t", data={"table": {10: "a", 2: ("b", 1.5)}, "text": "\ud800"})
    stored = Task("t", data=decode_line(encode_line(task.data)))
    assert stored.data != task.data, "a record has text as keys, and lists"
    assert stored.fingerprint == task.fingerprint


def test_the_fingerprint_of_a_task_is_that_of_its_content():
    one = Task("train-0", "train", {"a": 1, "b": [1.5, "x"]})
    assert len(one.fingerprint) == 16
    assert one.fingerprint == Task("other", "eval", {"b": [1.5, "x"], "a": 1}).fingerprint
    assert one.fingerprint != Task("train-0", "train", {"a": 1, "b": [1.5, "y"]}).fingerprint
    assert Task("t", data={"text": "\ud800", "n": float("nan")}).fingerprint, "any content has one"


def test_an_episode_that_ended_in_an_error_is_no_success_whatever_it_earned():
    ended = Trajectory(EnvRef("t"), Task("t"), 0, [Turn((), Action("a"), 1.0)], Ending("error", "refused"))
    assert (ended.status, ended.reward, ended.success) == ("terminated", 1.0, False)
