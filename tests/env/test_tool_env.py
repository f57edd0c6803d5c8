"""The course of an episode: calls, answers, limits, rewards, faults, and both faces."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import threading
import time
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BeforeValidator

from agentrl.env.base import Limits
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.messages import Action, Message, ToolCall
from agentrl.tool_schema import Tool, tool
from agentrl.trajectory import Ending


def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


class Desk(ToolEnv):
    """Tools of every kind, none of which waits."""

    tasks = Tasks.of(train=[{"goal": 3}], eval=[{"goal": 4}])
    limits = Limits(max_turns=5)
    rubric = Rubric({"right": 1.0, "neat": 0.25})
    system_prompt = "Be brief."
    extra_tools = (Tool.of(double),)

    def start(self, task):
        self.log: list[str] = []
        return f"Reach {task.data['goal']}."

    @tool
    def add(self, n: int = 1) -> dict[str, int]:
        """Add to the log."""
        self.log.append(f"add {n}")
        self.add_reward("neat", 0.5)
        return {"n": n}

    @tool
    def refuse(self) -> None:
        """Always refuse."""
        raise ToolError("not today")

    @tool
    def crash(self) -> None:
        """Crash."""
        raise KeyError("drawer")

    @tool
    def leave(self) -> None:
        """End the episode."""
        self.terminate()

    def respond(self, text):
        return "Go on." if text == "wait" else None

    def score(self, answer):
        self.success = answer == "3"
        return {"right": float(self.success)}


class Waiting(Desk):
    """Tools that wait."""

    tool_timeout_s = 0.2

    @tool
    async def nap(self, seconds: float = 0.01) -> str:
        """Sleep."""
        self.log.append("in")
        try:
            await asyncio.sleep(seconds)
        finally:
            self.log.append("out")
        return "slept"

    @tool(parallel=True)
    async def read(self, seconds: float = 0.0) -> str:
        """Sleep beside others."""
        return await self.nap(seconds)

    @tool(parallel=True)
    async def crash_later(self) -> None:
        """Crash beside others."""
        raise KeyError("drawer")

    @tool(blocking=True)
    def block(self, seconds: float = 0.01) -> str:
        """Sleep in a thread."""
        time.sleep(seconds)
        return threading.current_thread().name

    @tool(timeout_s=0.05)
    async def quick(self) -> None:
        """Sleep too long for its own limit."""
        await asyncio.sleep(30)

    @tool
    async def own_timeout(self) -> None:
        """Time out by itself."""
        raise TimeoutError("the server's own")


def calls(*named: tuple[str, dict[str, Any]]) -> Action:
    return Action(tool_calls=tuple(ToolCall(name, given, f"c{i}") for i, (name, given) in enumerate(named)))


def begun(env_class: type[ToolEnv] = Desk, **limits: Any) -> ToolEnv:
    env = env_class()
    if limits:
        env.limits = Limits(**limits)
    env.reset(seed=0, options={"split": "train"})
    return env


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


# What a model can write.


class Strict(Desk):
    """Author code that encodes and stores whatever it is given."""

    @tool
    def note(self, text: str) -> str:
        """Write text down."""
        self.log.append(text.encode().decode())
        return text

    @tool
    async def send(self, body: Any) -> str:
        """Send any JSON."""
        json.dumps(body, allow_nan=False).encode()
        return "sent"

    def respond(self, text):
        text.encode()
        return None

    def score(self, answer):
        answer.encode()
        return {"right": 0.0}


DEEP: Any = []
for _ in range(50_000):
    DEEP = [DEEP]
HOSTILE = [
    *("\ud800", "a\ud83d", "x" * 2_000_000, float("nan"), float("inf"), 10**400),
    *(["\udfff"], {"\ud800": 1}, {"a": [float("nan")]}, DEEP, {"a": DEEP}, [0] * 2_000_000),
]


@pytest.mark.parametrize("name", ["note", "send"])
@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_no_argument_can_make_an_episode_a_fault(name, value):
    env = begun(Strict)
    argument = "text" if name == "note" else "body"
    observation, *_ = env.step(call(name, **{argument: value}))
    assert observation[0].content.startswith("Error: ")
    assert argument in observation[0].content
    assert len(observation[0].content) < 500
    json.dumps(observation[0].to_openai(), ensure_ascii=False).encode()
    assert env.step("\ud800")[2]
    env.close()


@pytest.mark.parametrize("name", ["\ud800", "x" * 1_000_000, "", "(unknown)", "a\nb", "\x00"])
def test_no_name_of_a_tool_can_make_an_episode_a_fault(name):
    observation, *_ = begun(Strict).step(Action(tool_calls=(ToolCall(name, {}),)))
    assert observation[0].content.startswith("Error: there is no tool ")
    assert len(observation[0].content) < 500
    json.dumps(observation[0].to_openai(), ensure_ascii=False).encode()


@pytest.mark.parametrize("arguments", [[1], "text", 3, None, [["a", 1]]])
def test_arguments_that_are_no_object_are_an_error_that_the_model_reads(arguments):
    observation, *_ = begun().step(Action(tool_calls=(ToolCall("add", arguments),)))
    assert "arguments must be a JSON object, got " in observation[0].content


def test_ids_that_are_no_text_or_occur_twice():
    env = begun()
    odd = [None, 3, "a", "a", "\ud800", {}]
    observation, *_ = env.step(Action(tool_calls=tuple(ToolCall("add", {"n": n}, id) for n, id in enumerate(odd))))
    assert env.log == [f"add {n}" for n in range(6)]
    assert len({message.tool_call_id for message in observation}) == 6
    assert all(type(message.tool_call_id) is str for message in observation)


@pytest.mark.parametrize("kind", [Desk, Waiting])
def test_the_calls_of_one_turn_are_bounded(kind):
    env = begun(kind)
    observation, *_ = env.step(calls(*[("add", {})] * 10_000))
    assert len(env.log) == 128
    assert [message.tool_call_id for message in observation] == [f"c{n}" for n in range(10_000)]
    assert observation[128].content == (
        "Error: this call was not run: one turn may make at most 128 calls; make the others in later turns"
    )
    assert {message.content for message in observation[129:]} == {"Error: the same as above"}
    env.close()


@pytest.mark.parametrize("kind", [Desk, Waiting])
def test_equal_errors_of_one_turn_are_written_out_once(kind):
    """Every call keeps its answer, and what was done stays as it is."""
    env = begun(kind)
    unread = Action(tool_calls=tuple(ToolCall("", {}, f"c{i}", "not valid JSON: nothing there") for i in range(3)))
    observation, *_ = env.step(unread)
    assert [message.tool_call_id for message in observation] == ["c0", "c1", "c2"]
    assert [message.content for message in observation] == [
        "Error: the call could not be read: not valid JSON: nothing there",
        *["Error: the same as above"] * 2,
    ]
    pairs = [("add", {}), ("addd", {}), ("add", {}), ("addd", {}), ("refuse", {}), ("refuse", {})]
    observation, *_ = env.step(calls(*pairs))
    assert [message.content for message in observation] == [
        '{"n": 1}',
        observation[1].content,
        '{"n": 1}',
        "Error: the same as above",
        *["Error: not today"] * 2,  # no longer than what would stand for it
    ]
    assert env.tool_stats["(unknown)"] == {"calls": 5, "errors": 5}
    env.close()


def test_a_result_that_cannot_be_encoded_is_made_safe():
    class Odd(Desk):
        system_prompt = "Half \ud800."

        def start(self, task):
            self.log = []
            return [Message("user", "half \ud800"), Message("user", "whole")]

        def respond(self, text):
            return "half \ud800" if text == "wait" else None

        @tool
        def text(self) -> str:
            """Half."""
            return "half \ud800"

        @tool
        async def waits(self) -> dict[str, str]:
            """Half."""
            return {"a": "half \ud800"}

        @tool
        def refuse(self) -> None:
            """Half."""
            raise ToolError("half \ud800")

    env = Odd()
    messages, _ = env.reset(seed=0)
    assert [message.content for message in messages] == ["Half \ufffd.", "half \ufffd", "whole"]
    observation, *_ = env.step(calls(("text", {}), ("waits", {}), ("refuse", {})))
    assert [m.content for m in observation] == ["half \ufffd", '{"a": "half \ufffd"}', "Error: half \ufffd"]
    assert env.step("wait")[0][0].content == "half \ufffd"
    env.close()


# What an author returns.


def test_rewards_and_success_may_be_numpys():
    class Counted(Desk):
        @tool
        def add(self, n: int = 1) -> object:
            """Add."""
            self.add_reward("neat", np.bool_(True))
            return np.int64(n)

        def score(self, answer):
            self.success = np.bool_(True)
            return {"right": np.float32(1.0), "neat": np.int64(2)}

    env = begun(Counted)
    observation, reward, *_ = env.step(call("add"))
    assert (observation[0].content, reward) == ("1", 0.25)
    _, reward, _, _, info = env.step("3")
    assert (reward, info["success"], info["reward_components"]) == (1.5, True, {"right": 1.0, "neat": 2.0})
    assert [type(value) for value in (reward, info["success"], *info["reward_components"].values())] == [
        *(float, bool, float, float)
    ]


def test_a_score_may_be_one_number_of_numpys():
    class Scored(Desk):
        rubric = Rubric()

        def score(self, answer):
            return np.float64(0.5)

    assert begun(Scored).step("3")[1] == 0.5


def test_a_start_or_a_reply_that_is_no_text_is_named():
    class Odd(Desk):
        def respond(self, text):
            return 3

    class OddMessage(Desk):
        def start(self, task):
            return Message("user", 3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="respond must return text or None, got int"):
        begun(Odd).step("x")
    with pytest.raises(TypeError, match="start returned a message whose content is int, not text"):
        OddMessage().reset(seed=0)


def shut(value: Any) -> Any:
    raise LookupError("closed")


def test_a_validator_of_the_authors_that_raises_is_named():
    class Guarded(Desk):
        @tool
        def look(self, where: Annotated[str, BeforeValidator(shut)]) -> str:
            """Look."""
            return where

    with pytest.raises(EnvFault, match="a validator of tool 'look' raised LookupError: closed"):
        begun(Guarded).step(call("look", where="up"))


def test_a_circular_result_is_a_fault_that_says_so():
    class Round(Desk):
        @tool
        def look(self) -> list[Any]:
            """Look."""
            found: list[Any] = []
            found.append(found)
            return found

    with pytest.raises(EnvFault, match=r"tool 'look' raised ValueError: the result, a list, has .*itself"):
        begun(Round).step(call("look"))
