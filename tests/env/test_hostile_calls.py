"""Whatever calls a model writes, the episode goes on: arguments, names, ids, and how many there are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentrl.env.tool_env import call
from agentrl.errors import ToolError
from agentrl.messages import Action, Message, ToolCall
from agentrl.tool_schema import tool
from tests.env.desk import Desk, Waiting, begun, calls


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
