"""Trajectories for the tests of the store, and a store that holds some."""

from __future__ import annotations

from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, Turn
from tests.endings import ENDINGS


def trajectory(number: int, *, status="terminated", stage="train", arguments=None) -> Trajectory:
    action = Action(
        f"answer {number} €",
        (ToolCall("f", arguments or {"x": number}, "c"),),
        prompt_ids=(1, 2, number),
        token_ids=(7, 8),
        logprobs=(-0.1, -1.0 / 3.0),
    )
    more = Action("more", prompt_ids=(1, 2, number, 7, 8, 9), token_ids=(10,), logprobs=(-2.5e-17,))
    turns = [
        Turn((Message("user", "go"),), action, 0.1, {"a": 0.1}, (Message("tool", "ok", (), "c", "f"),), "k0"),
        Turn((Message("tool", "ok", (), "c", "f"),), more, 0.2, {}, (Message("user", "bye"),)),
    ]
    task = Task(f"t{number}", "train", {"n": number})
    info = {"nested": {"list": [1, None, "x"]}}
    return Trajectory(
        EnvRef("test/E-v0"),
        task,
        number,
        turns,
        ENDINGS[status],
        f"g{number // 2}",
        f"e{number}",
        Labels(stage),
        info,
        [{"type": "function"}],
    )


def filled(path, count: int) -> TrajectoryStore:
    store = TrajectoryStore(path)
    for number in range(count):
        store.append(trajectory(number))
    store.close()
    return store
