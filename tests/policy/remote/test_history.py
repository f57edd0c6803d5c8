"""Sent history: whatever a model wrote in it, the messages are such as the strictest servers accept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.messages import Message, ToolCall
from agentrl.policy.control import control_messages
from agentrl.policy.remote.chat_completions import sent_messages
from agentrl.policy.remote.history import NO_TEXT, encoded
from tests.policy.conftest import TOOL

DOTTED = {"type": "function", "function": {"name": "math.add", "parameters": {"type": "object", "properties": {}}}}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ID = re.compile(r"[!-~]{1,40}")


def said(*calls: ToolCall, text: str = "") -> Message:
    return Message("assistant", text, calls)


def answered(call_id: str, name: str = "add", content: str = "3") -> Message:
    return Message("tool", content, tool_call_id=call_id, name=name)


def ids(sent: list[dict[str, Any]]) -> list[str]:
    """The ids of calls and results, in order."""
    return [one for m in sent for one in ([c["id"] for c in m.get("tool_calls", ())] or [m.get("tool_call_id")]) if one]


def test_what_is_good_is_sent_as_it_is() -> None:
    call = ToolCall("add", {"a": 1, "b": "é"}, "chatcmpl-tool-12")
    sent = sent_messages([Message("user", "?"), said(call, text="Let me."), answered("chatcmpl-tool-12")], [TOOL], None)
    function = {"name": "add", "arguments": '{"a": 1, "b": "é"}'}
    assert sent == [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "Let me.",
            "tool_calls": [{"id": "chatcmpl-tool-12", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "chatcmpl-tool-12", "name": "add"},
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("look up", "look_up"),
        ("föö.bar/baz", "f___bar_baz"),
        ("", "unknown"),
        ("x" * 100, "x" * 64),
        ("\ud800", "_"),
        ("a\n", "a_"),
        ("math.add", "math.add"),  # an existing tool is called what it is called
    ],
)
def test_names_are_those_that_a_server_accepts_in_calls_and_results(given: str, expected: str) -> None:
    sent = sent_messages([said(ToolCall(given, {}, "c1")), answered("c1", given)], [TOOL, DOTTED], None)
    assert sent[0]["tool_calls"][0]["function"]["name"] == expected
    assert sent[1]["name"] == expected


def test_the_name_of_a_user_stays() -> None:
    assert sent_messages([Message("user", "?", name="Ada L.")], [], None)[0]["name"] == "Ada L."


@pytest.mark.parametrize("given", ["", "x" * 41, "a b", "é", "call_0", "\ud800"])
def test_an_id_that_a_server_refuses_is_replaced_in_its_result_too(given: str) -> None:
    sent = sent_messages([said(ToolCall("add", {}, given)), answered(given)], [TOOL], None)
    assert ids(sent) == ["call00000", "call00000"]


def test_ids_are_unique_and_results_keep_to_their_calls() -> None:
    twice = said(ToolCall("add", {"a": 1}, "c"), ToolCall("add", {"a": 2}, "c"))
    messages = [twice, answered("c", content="1"), answered("c", content="2"), said(ToolCall("add", {}, "c"))]
    sent = sent_messages([*messages, answered("c", content="3")], [TOOL], None)
    assert ids(sent) == ["c", "call00000", "c", "call00000", "call00001", "call00001"]
    assert [m["content"] for m in sent if m["role"] == "tool"] == ["1", "2", "3"]


def test_an_id_does_not_change_as_the_conversation_grows() -> None:
    messages = [m for _ in range(3) for m in (said(ToolCall("add", {}, "call_0")), answered("call_0"))]
    assert ids(sent_messages(messages[:2], [TOOL], None)) == ids(sent_messages(messages, [TOOL], None))[:2]


def test_a_new_id_is_not_one_that_the_server_gave() -> None:
    calls = said(ToolCall("add", {}, "call00000"), ToolCall("add", {}, ""))
    assert ids(sent_messages([calls], [TOOL], None)) == ["call00000", "call00001"]


def test_a_result_without_a_call_keeps_its_id() -> None:
    assert ids(sent_messages([answered("elsewhere")], [TOOL], None)) == ["elsewhere"]


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_turn_says_that_it_is_empty(text: str) -> None:
    assert sent_messages([said(text=text)], [], None) == [{"role": "assistant", "content": NO_TEXT}]
    assert sent_messages([said(ToolCall("add"), text=text)], [TOOL], None)[0]["content"] == text


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("arguments", [{"a": float("nan")}, {"a": float("inf")}, deep(100_000), {"a": object()}])
def test_arguments_are_a_json_object(arguments: dict[str, Any]) -> None:
    sent = sent_messages([said(ToolCall("add", arguments))], [TOOL], None)
    assert sent[0]["tool_calls"][0]["function"]["arguments"] == "{}"


TEXT = st.text(st.characters(), max_size=50)
CALL = st.builds(ToolCall, TEXT, st.dictionaries(TEXT, st.one_of(TEXT, st.floats(), st.integers()), max_size=2), TEXT)


@given(turns=st.lists(st.tuples(TEXT, st.lists(CALL, max_size=3)), max_size=4))
def test_whatever_a_model_wrote_the_messages_are_acceptable(turns: list[tuple[str, list[ToolCall]]]) -> None:
    messages = [Message("user", "?")]
    for text, calls in turns:
        messages += [said(*calls, text=text), *[answered(call.id, call.name) for call in calls]]
    sent = json.loads(encoded({"messages": sent_messages(messages, [TOOL], None)}))["messages"]
    made: list[str] = []
    for message in sent:
        assert message.get("content", "").strip() or message.get("tool_calls")
        for call in message.get("tool_calls", ()):
            assert NAME.fullmatch(call["function"]["name"])
            assert ID.fullmatch(call["id"])
            assert isinstance(json.loads(call["function"]["arguments"], parse_constant=pytest.fail), dict)
            made.append(call["id"])
        if message["role"] == "tool":
            assert message["tool_call_id"] in made
            assert NAME.fullmatch(message["name"])
    assert len(made) == len(set(made))


def test_a_body_is_utf8_whatever_it_holds() -> None:
    body = {"a\udc00": ["x\ud800", "\ud83d\ude00", "é"], "b": json.dumps({"k": "\udfff"}, ensure_ascii=False)}
    sent = json.loads(encoded(body).decode())
    assert sent == {"a\ufffd": ["x\ufffd", "😀", "é"], "b": '{"k": "\ufffd"}'}


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_the_control_conversation_is_sent_as_it_is_written(tools: Any) -> None:
    sent = sent_messages(control_messages(tools), tools, None)
    assert [message["role"] for message in sent] == ["user", "assistant", "tool" if tools else "user"]
    assert len(set(ids(sent))) == (1 if tools else 0)
