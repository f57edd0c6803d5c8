"""The course of an episode: calls, answers, limits, rewards, faults, and both faces."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from typing import Any

import pytest

from agentrl.env.tool_env import call
from agentrl.errors import EnvFault, ToolSchemaError
from agentrl.messages import Action, Message, ToolCall
from agentrl.tool_schema import Tool, tool
from agentrl.trajectory import Ending
from tests.env.desk import Desk, Waiting, begun, calls, double


def test_reset_and_an_answer():
    env = Desk()
    observation, info = env.reset(seed=0)
    assert observation == (Message("system", "Be brief."), Message("user", "Reach 3."))
    assert info == {"task_id": "train-0"}
    assert env.step("3") == (
        (),
        1.0,
        True,
        False,
        {"task_id": "train-0", "reward_components": {"right": 1.0}, "tool_stats": {}, "success": True},
    )


def test_calls_run_in_order_and_each_answer_names_its_call():
    env = begun()
    observation, reward, terminated, truncated, info = env.step(
        calls(("add", {"n": 2}), ("double", {"n": 4}), ("add", {}))
    )
    assert observation == (
        Message("tool", '{"n": 2}', tool_call_id="c0", name="add"),
        Message("tool", "8", tool_call_id="c1", name="double"),
        Message("tool", '{"n": 1}', tool_call_id="c2", name="add"),
    )
    assert env.log == ["add 2", "add 1"]
    assert (reward, terminated, truncated) == (0.25, False, False)
    assert info["reward_components"] == {"neat": 1.0}
    assert env.step("3")[1] == 1.0


def test_what_the_model_did_wrong_is_said_and_counted():
    env = begun()
    broken = ToolCall("add", {}, "c3", error="arguments are not valid JSON")
    action = calls(("refuse", {}), ("ad", {}), ("add", {"n": "x"}))
    observation, *_ = env.step(Action(tool_calls=(*action.tool_calls, broken)))
    assert [message.content for message in observation] == [
        "Error: not today",
        "Error: there is no tool 'ad'. Did you mean 'add'?",
        "Error: wrong arguments for add: n should be a valid integer, unable to parse string as an integer, got 'x'",
        "Error: the call could not be read: arguments are not valid JSON",
    ]
    assert env.log == []
    assert env.step("x")[4]["tool_stats"] == {
        "refuse": {"calls": 1, "errors": 1},
        "(unknown)": {"calls": 1, "errors": 1},
        "add": {"calls": 2, "errors": 2},
    }


def test_another_exception_is_a_fault_with_its_cause():
    with pytest.raises(EnvFault, match="tool 'crash' raised KeyError: 'drawer'") as caught:
        begun().step(call("crash"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_terminate_and_respond():
    env = begun()
    assert env.step("wait")[:3] == ((Message("user", "Go on."),), 0.0, False)
    observation, reward, terminated, _, info = env.step(call("leave"))
    assert (observation[0].content, reward, terminated, info["success"]) == ("ok", 0.0, True, False)


def test_a_step_after_the_end_or_before_reset():
    env = begun()
    env.step("3")
    with pytest.raises(RuntimeError, match="call reset before step"):
        env.step("3")
    with pytest.raises(RuntimeError, match="call reset before step"):
        Desk().step("3")
    env.reset(seed=1)
    assert env.step("3")[1] == 1.0


@pytest.mark.parametrize(
    ("limits", "action", "steps", "reason"),
    [
        ({"max_turns": 2}, call("add"), 2, "max_turns"),
        ({"max_turns": None, "max_tokens": 10}, Action("wait", token_ids=(1, 2, 3, 4)), 3, "max_tokens"),
        ({"max_turns": None, "max_tokens": 10}, Action("wait", usage={"completion_tokens": 5}), 2, "max_tokens"),
        ({"max_turns": None, "max_wall_s": 0.0}, call("add"), 1, "max_wall_s"),
        ({"max_turns": 9}, Action("half an ans", finish_reason="length"), 1, "turn_tokens"),
    ],
)
def test_limits_truncate_without_a_score(limits, action, steps, reason):
    env = begun(**limits)
    for _ in range(steps - 1):
        assert env.step(action)[2:4] == (False, False)
    *_, terminated, truncated, info = env.step(action)
    assert (terminated, truncated, env.ending) == (False, True, Ending("limit", reason))
    assert "right" not in info.get("reward_components", {})
    assert "success" not in info


def test_a_truncated_episode_can_be_scored():
    class Scored(Desk):
        score_truncated = True

        def score(self, answer):
            assert answer is None
            return {"right": 0.5}

    assert begun(Scored, max_turns=1).step("wait")[1] == 0.5


def test_an_answer_at_the_last_turn_is_an_answer():
    assert begun(max_turns=1).step("3")[1:4] == (1.0, True, False)


def test_a_component_without_weight_and_a_score_that_is_no_number():
    class Misspelt(Desk):
        def score(self, answer):
            return {"rihgt": 1.0}

    class Empty(Desk):
        def score(self, answer):
            return None

    with pytest.raises(KeyError, match="Did you mean 'right'"):
        begun(Misspelt).step("3")
    with pytest.raises(TypeError, match="score must return a number or a dict of numbers: reward must be"):
        begun(Empty).step("3")


def test_the_calls_of_a_turn_run_in_order():
    env = begun(Waiting)
    observation = env.step(calls(("nap", {}), ("add", {}), ("nap", {})))[0]
    assert [message.content for message in observation] == ["slept", '{"n": 1}', "slept"]
    assert env.log == ["in", "out", "add 1", "in", "out"]
    env.close()


def test_neighbouring_calls_of_parallel_tools_run_at_once():
    env = begun(Waiting)
    env.step(calls(("read", {}), ("read", {}), ("nap", {}), ("read", {}), ("add", {}), ("read", {})))
    assert env.log == ["in", "in", "out", "out", "in", "out", "in", "out", "add 1", "in", "out"]
    env.close()


async def test_a_blocking_tool_runs_in_a_thread_of_its_own():
    env = Waiting()
    await env.areset(seed=0)
    observation, *_ = await env.astep(calls(("block", {}), ("nap", {})))
    await env.aclose()
    assert observation[0].content == "tool-block"


@pytest.mark.parametrize("name", ["nap", "block"])
def test_a_tool_that_takes_too_long_is_a_fault(name):
    env = begun(Waiting)
    with pytest.raises(EnvFault, match=f"tool '{name}' did not return within 0.2 s"):
        env.step(call(name, seconds=2.0))
    env.close()


def test_a_tools_own_limit_and_its_own_timeout_error():
    env = begun(Waiting)
    with pytest.raises(EnvFault, match=r"tool 'quick' did not return within 0.05 s"):
        env.step(call("quick"))
    env.reset(seed=0)
    with pytest.raises(EnvFault, match=r"tool 'own_timeout' raised TimeoutError: the server's own"):
        env.step(call("own_timeout"))
    env.close()


async def test_one_fault_among_parallel_calls_cancels_the_others():
    env = Waiting()
    await env.areset(seed=0)
    with pytest.raises(EnvFault, match="'crash_later' raised KeyError") as caught:
        await env.astep(calls(("read", {"seconds": 30}), ("crash_later", {})))
    assert isinstance(caught.value.__cause__, KeyError)
    assert env.log == ["in", "out"]
    assert len(asyncio.all_tasks()) == 1


async def test_cancelling_a_step_leaves_no_task():
    env = Waiting()
    await env.areset(seed=0)
    step = asyncio.ensure_future(env.astep(calls(("read", {"seconds": 30}), ("read", {"seconds": 30}))))
    await asyncio.sleep(0.01)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert env.log == ["in", "in", "out", "out"]
    assert len(asyncio.all_tasks()) == 1


async def test_the_synchronous_face_inside_a_running_loop():
    env = Desk()  # never waits: fine anywhere
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"use `await env.areset\(\)`"):
        Waiting().reset(seed=0)
    assert env.step("3")[1] == 1.0


def test_both_faces_tell_the_same():
    script = [calls(("add", {"n": 2}), ("nap", {})), "wait", call("refuse"), "3"]
    env = begun(Waiting)
    synchronous = [env.step(action) for action in script]
    env.close()

    async def play() -> list[Any]:
        env = Waiting()
        await env.areset(seed=0, options={"split": "train"})
        return [await env.astep(action) for action in script]

    # Not an async test: the synchronous face of an environment that waits needs a thread without a loop.
    assert asyncio.run(play()) == synchronous


@pytest.mark.filterwarnings("error")
def test_an_environment_dropped_without_close_leaves_no_loop_open():
    env = begun(Waiting)
    env.step(call("nap"))
    del env
    gc.collect()  # Python warns here of a loop that is still open


def test_close_frees_everything_though_one_tool_fails_to():
    closed = []

    def holding(name: str) -> Tool:
        async def aclose() -> None:
            await asyncio.sleep(0)
            closed.append(name)
            if name == "first":
                raise OSError("already gone")

        return dataclasses.replace(Tool.of(double), name=name, aclose=aclose)

    class Holding(Waiting):
        extra_tools = (holding("first"), holding("second"), holding("third"))

    env = begun(Holding)
    with pytest.raises(OSError, match="already gone"):
        env.close()
    assert sorted(closed) == ["first", "second", "third"]
    assert env._Env__runner is None


def test_a_waiting_hook_is_driven_by_a_loop():
    class Slow(Desk):
        async def start(self, task):
            await asyncio.sleep(0)
            return "Reach 3."

        async def score(self, answer):
            return {"right": await asyncio.sleep(0, 1.0)}

    env = begun(Slow)
    assert env.step("x")[1] == 1.0
    env.close()


def test_start_may_return_messages():
    class Chatty(Desk):
        def start(self, task):
            return [Message("user", "a"), Message("user", "b")]

    class Wrong(Desk):
        def start(self, task):
            return ["a"]

    assert [m.content for m in Chatty().reset()[0]] == ["Be brief.", "a", "b"]
    with pytest.raises(TypeError, match="start must return a text, a Message or Messages, got str"):
        Wrong().reset()


def test_defects_of_a_class_show_when_it_is_defined():
    with pytest.raises(ToolSchemaError, match=r"tool .*Bare.look: parameter 'x' has no type hint"):

        class Bare(Desk):
            @tool
            def look(self, x):
                """Look."""

    with pytest.raises(ToolSchemaError, match="has two tools named 'add'"):

        class Twice(Desk):
            @tool(name="add")
            def plus(self) -> None:
                """Add."""

    with pytest.raises(ToolSchemaError, match=r"Hiding.add hides an inherited tool: mark it @tool"):

        class Hiding(Desk):
            def add(self, n: int = 1) -> dict[str, int]:
                return {}

    with pytest.raises(ToolSchemaError, match="static or class method cannot be a tool"):

        class Static(Desk):
            @tool
            @staticmethod
            def look() -> None:
                """Look."""


def test_a_subclass_may_take_a_tool_away():
    class Fewer(Desk):
        crash = None

    names = [schema["function"]["name"] for schema in Fewer().tool_schemas]
    assert names == ["double", "add", "leave", "refuse"]
    assert "Did you mean" not in begun(Fewer).step(call("crash"))[0][0].content.replace("crash", "")
