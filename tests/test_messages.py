"""The OpenAI chat form, both ways, and what users may give as an action."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from msgspec.json import encode

from agentrl.messages import Action, Message, ToolCall

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(ToolCall, st.text(min_size=1), st.dictionaries(st.text(), PLAIN, max_size=3), st.text(min_size=1))
MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.text(),
    st.lists(CALLS, max_size=2).map(tuple),
    st.none() | st.text(),
    st.none() | st.text(),
    st.none() | st.text(),
)


@given(MESSAGES)
def test_a_message_survives_the_openai_form_and_json(message):
    assert Message.from_openai(json.loads(json.dumps(message.to_openai()))) == message


def test_the_openai_form_leaves_out_what_is_empty():
    assert Message("user", "hi").to_openai() == {"role": "user", "content": "hi"}
    called = Message("assistant", "", (ToolCall("price", {"item": "Müsli"}, "c1"),), reasoning="hm")
    assert called.to_openai() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "price", "arguments": '{"item": "Müsli"}'}}
        ],
        "reasoning_content": "hm",
    }
    answer = Message("tool", "3", tool_call_id="c1", name="price")
    assert answer.to_openai() == {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "price"}


@pytest.mark.parametrize(
    ("arguments", "read", "error"),
    [
        ('{"a": 1}', {"a": 1}, None),
        ({"a": 1}, {"a": 1}, None),
        ("", {}, None),
        (None, {}, None),
        ("{'a': 1}", {}, "arguments are not valid JSON: "),
        ("[1]", {}, "arguments must be a JSON object, got list"),
        ("3", {}, "arguments must be a JSON object, got int"),
    ],
)
def test_arguments_that_cannot_be_read_set_the_error(arguments, read, error):
    call = ToolCall.from_openai({"function": {"name": "f", "arguments": arguments}}, index=4)
    assert (call.name, call.arguments, call.id) == ("f", read, "call_4")
    assert call.error is None if error is None else call.error.startswith(error)


def test_a_call_without_a_function_has_no_name():
    assert ToolCall.from_openai({"id": "x"}) == ToolCall("", {}, "x")


def test_content_parts_are_joined_and_others_refused():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert Message.from_openai({"role": "user", "content": parts}).content == "ab"
    assert Message.from_openai({"role": "assistant", "content": None}).content == ""
    with pytest.raises(ValueError, match="a part of type 'image_url'"):
        Message.from_openai({"role": "user", "content": [{"type": "image_url"}]})


@pytest.mark.parametrize("role", [None, "developer", 3])
def test_an_unknown_role_is_refused(role):
    with pytest.raises(ValueError, match="message role must be system, user, assistant or tool"):
        Message.from_openai({"role": role, "content": ""})


def test_what_may_stand_for_an_action():
    action = Action("hi", token_ids=(1,))
    assert Action.of(action) is action
    assert Action.of("hi") == Action("hi")
    given_message = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    assert Action.of(given_message) == Action("", (ToolCall("f", {}, "c"),))
    assert Action.of({"role": "assistant", "content": "x", "reasoning_content": "hm"}) == Action("x", reasoning="hm")
    with pytest.raises(TypeError, match="an action is an Action, a str or an OpenAI assistant message, got int"):
        Action.of(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"an assistant message has content or tool_calls, got keys \['answer'\]"):
        Action.of({"answer": "x"})


def test_an_action_as_a_message():
    calls = (ToolCall("f", {"x": 1}, "c"),)
    assert Action("hi", calls, "hm", token_ids=(1,)).to_message() == Message("assistant", "hi", calls, reasoning="hm")


@pytest.mark.parametrize(
    "value",
    [
        Message("tool", "5", (), "call_0", "add"),
        ToolCall("add", {"a": 1}),
        Action("hi", (ToolCall("add", {"a": 1}),), token_ids=(1, 2), logprobs=(-0.5, 0.0)),
    ],
)
def test_the_vocabulary_is_frozen_and_copies_pickles_and_compares(value):
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    first = type(value).__struct_fields__[0]
    assert structs.replace(value, **{first: "other"}) != value
    with pytest.raises(AttributeError, match="immutable"):
        setattr(value, first, "other")
    with pytest.raises(AttributeError):
        value.unknown = 3


@pytest.mark.parametrize("action", [Action("x"), Action("x", finish_reason="length")])
def test_an_action_of_another_process_is_recorded_as_one_of_this(action):
    """Records leave out defaults, which are told by their identity."""
    assert encode(pickle.loads(pickle.dumps(action))) == encode(action)
    assert encode(copy.deepcopy(action)) == encode(action)


def test_equal_messages_hash_alike_and_calls_share_no_arguments():
    assert len({Message("user", "a"), Message("user", "a"), Message("user", "b")}) == 2
    assert ToolCall("f").arguments is not ToolCall("f").arguments


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"function": {"name": "f", "arguments": f'{{"a": {DEEP}}}'}}, "arguments are nested too deeply"),
        ({"function": {"name": "f", "arguments": "null"}}, "arguments must be a JSON object, got NoneType"),
        ({"function": {"name": "f", "arguments": 3.5}}, "arguments must be a JSON object, got float"),
        ({"function": "f"}, "a call must be an object with a `function`"),
        ("f", "a call must be an object with a `function`"),
        (None, "a call must be an object with a `function`"),
    ],
)
def test_a_call_that_cannot_be_read_never_raises(entry, error):
    action = Action.of({"tool_calls": [entry]})
    assert action.tool_calls[0].error.startswith(error)
    json.dumps(action.to_message().to_openai()).encode()


@pytest.mark.parametrize("calls", [{"f": {}}, "f", 3])
def test_calls_that_are_no_list_are_one_call_with_an_error(calls):
    assert Action.of({"tool_calls": calls}).tool_calls[0].error.startswith("tool_calls must be a list, got ")


@pytest.mark.parametrize("odd", [7, 1.5, True, {}, [["deep"]], 10**5000, "", None], ids=lambda odd: type(odd).__name__)
def test_names_and_ids_are_text(odd):
    call = ToolCall.from_openai({"id": odd, "function": {"name": odd, "arguments": "{}"}}, 2)
    assert type(call.name) is type(call.id) is str
    assert call.id
    assert ToolCall(odd, {}, odd).safe().id  # type: ignore[arg-type]


def test_an_unsafe_call_becomes_one_that_is_never_run():
    unsafe = ToolCall("f\ud800", {"kind": "a\ud800", "n": float("nan")}, "c\ud800")
    safe = unsafe.safe()
    assert (safe.name, safe.arguments, safe.id) == ("f\ufffd", {"kind": "a\ufffd", "n": "NaN"}, "c\ufffd")
    assert safe.error == "argument kind holds \\ud800, which is half of a character: write whole characters"
    assert ToolCall("f", [1], error="not JSON").safe().error == "not JSON"  # type: ignore[arg-type]
    assert ToolCall("f", [1]).safe().error == "arguments must be a JSON object, got list"  # type: ignore[arg-type]


def test_a_safe_action_is_itself():
    for action in (
        Action("Müsli", reasoning="hm ☕"),
        Action("", (ToolCall("f", {"kind": "Müsli"}), ToolCall("f", {}, "call_1"))),
    ):
        assert action.safe() is action


def test_an_unsafe_action_keeps_its_tokens():
    action = Action("a\ud800", (ToolCall("f"),), "b\udfff", token_ids=(1, 2), logprobs=(-1.0, 0.0))
    assert action.safe() == Action("a\ufffd", (ToolCall("f"),), "b\ufffd", token_ids=(1, 2), logprobs=(-1.0, 0.0))
    assert Action(None).safe() == Action("")  # type: ignore[arg-type]


def test_ids_that_occur_twice_in_a_turn_are_told_apart():
    calls = [ToolCall("f", {"n": n}, id) for n, id in enumerate("aabab")]
    action = Action(tool_calls=(*calls, ToolCall("f")))
    safe = action.safe().tool_calls
    assert [call.arguments for call in safe] == [call.arguments for call in action.tool_calls]
    assert len({call.id for call in safe}) == 6
    assert (safe[0].id, safe[2].id, safe[5].id) == ("a", "b", "call_0")


@pytest.mark.parametrize("arguments", [{"a": "\ud800"}, {"a": float("inf")}, {"\ud800": 1}, {"a": [[]]}, [1]])
def test_the_openai_form_can_always_be_encoded(arguments):
    deep = arguments
    for _ in range(50_000):
        deep = [deep]
    for given_arguments in (arguments, {"deep": deep}):
        message = Message("assistant", "x\ud800", (ToolCall("f\ud800", given_arguments, "\ud800"),), reasoning="\ud800")
        body = message.to_openai()
        json.dumps(body, ensure_ascii=False).encode()
        json.loads(body["tool_calls"][0]["function"]["arguments"], parse_constant=pytest.fail)


def test_half_of_a_character_in_foreign_json_is_replaced():
    assert Message.from_openai({"role": "user", "content": "a\ud800"}).content == "a\ufffd"
    assert Message.from_openai({"role": "tool", "content": "", "name": "\ud800", "tool_call_id": 3}).name == "\ufffd"
    assert Action.of("a\ud800").text == "a\ufffd"
    assert Action.of({"content": [{"type": "text", "text": "\ud800"}], "reasoning_content": "\ud800"}) == Action(
        "\ufffd", reasoning="\ufffd"
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 123456789012345678901234567890, "b": -0.0, "c": 1E5, "a": 2}',
        ' {"a": {"b": [1, null, true, "\\ud83d\\ude00"]}} ',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        "[1, 2]",
        '"text"',
    ],
)
def test_arguments_are_read_as_pythons_json_reads_them(text: str) -> None:
    value = json.loads(text)
    call = ToolCall.from_openai({"function": {"name": "f", "arguments": text}})
    if isinstance(value, dict):
        assert repr(call.arguments) == repr(value)
        assert call.error is None
    else:
        assert call.error == f"arguments must be a JSON object, got {type(value).__name__}"
