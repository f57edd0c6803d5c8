"""A trajectory's sums and verdicts are as documented."""

from __future__ import annotations

import pytest

from agentrl.messages import Action, Message
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup, Turn
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
