"""Reading calls and thinking: each malformed shape has an error that says what was wrong."""

from __future__ import annotations

import json

import pytest

from agentrl.messages import ToolCall
from agentrl.policy.format.call_syntax import MOST_UNREAD, CallKeys, join_unread, read_call, split_reasoning
from agentrl.policy.format.hermes import HERMES
from agentrl.policy.format.json_calls import JsonCalls
from agentrl.policy.format.llama3 import LLAMA3
from agentrl.policy.format.marked_calls import NamedCalls, TaggedCalls

hermes_calls, llama3_calls = HERMES.read, LLAMA3.read
LISTED = JsonCalls("[TOOL_CALLS]", "", is_list=True)
NAMED = NamedCalls("<calls>", "<call>", "<sep>", "</call>", "</calls>")
TAGGED = TaggedCalls("<tool_call><function=", ">", "<parameter=", ">", "</parameter>", "</function></tool_call>")


def test_hermes_parallel_calls_and_text_around() -> None:
    first = 'Let me see. <tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    said, calls = hermes_calls(first + '<tool_call>{"name": "g"}</tool_call> ok')
    assert said == "Let me see.  ok"
    assert [(c.name, c.arguments, c.id, c.error) for c in calls] == [
        ("f", {"x": 1}, "call_0", None),
        ("g", {}, "call_1", None),
    ]


@pytest.mark.parametrize(
    ("body", "name", "error"),
    [
        ('{"name": "f", "arguments": {"x": 1}', "f", "not valid JSON"),
        ('{"name": "f", "arguments": [1]}', "f", "must be a JSON object, got list"),
        ('{"name": 3}', "", "expected"),
        ("[1, 2]", "", "expected"),
        ("", "", "not valid JSON"),
        ("[" * 100_000, "", "not valid JSON"),
    ],
)
def test_malformed_calls_carry_an_error(body: str, name: str, error: str) -> None:
    call = read_call(body, 2, CallKeys())
    assert call.name == name
    assert call.id == "call_2"
    assert call.arguments == {}
    assert call.error is not None
    assert error in call.error


HOSTILE = [
    ("[" * 100_000, "levels deep"),
    ('{"a":' * 100_000, "levels deep"),
    ('{"a":' * 900 + "1" + "}" * 900, "levels deep"),
    ("1" * 5000, "too many digits"),
    ("NaN", "JSON has no NaN"),
    ("[-Infinity]", "JSON has no -Infinity"),
    ("1e999", "too large"),
    ('{"b": 1, "b": 2}', "'b' is in one object twice"),
]


@pytest.mark.parametrize("way", ["hermes", "llama3", "listed", "named"])
@pytest.mark.parametrize(("value", "reason"), HOSTILE, ids=[reason for _, reason in HOSTILE])
def test_json_that_a_model_should_not_write_is_an_error_of_its_call(way: str, value: str, reason: str) -> None:
    arguments = f'{{"x": {value}}}'
    body = f'{{"name": "f", "arguments": {arguments}}}'
    _, calls = {
        "hermes": lambda: HERMES.read(f"<tool_call>{body}</tool_call>"),
        "llama3": lambda: LLAMA3.read(body),
        "listed": lambda: LISTED.read(f"[TOOL_CALLS] [{body}]"),
        "named": lambda: NAMED.read(f"<calls><call>f<sep>{arguments}</call></calls>"),
    }[way]()
    assert [(call.name, dict(call.arguments)) for call in calls] == [("f", {})]
    assert reason in (calls[0].error or "")


def test_a_call_cut_off_counts_only_if_its_json_is_whole() -> None:
    _, whole = hermes_calls('<tool_call>{"name": "f", "arguments": {}}')
    _, cut = hermes_calls('<tool_call>{"name": "f", "argum')
    _, lost = hermes_calls('<tool_call>{"name": "f"<tool_call>{"name": "g"}</tool_call>')
    assert whole[0].error is None
    assert cut[0].error is not None
    assert [(c.name, c.error is None) for c in lost] == [("f", False), ("g", True)]


def test_llama_calls() -> None:
    assert llama3_calls("It is {4}.") == ("It is {4}.", [])
    said, calls = llama3_calls('{"name": "f", "parameters": {"x": "a; b"}}; {"name": "g", "arguments": {"y": 2}}')
    assert said == ""
    assert [(c.name, c.arguments) for c in calls] == [("f", {"x": "a; b"}), ("g", {"y": 2})]
    said, calls = llama3_calls('Wait.<|python_tag|>{"name": "f", "parameters": {')
    assert said == "Wait."
    assert calls[0].name == "f"
    assert calls[0].error is not None


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>a b</think>c", False, ("a b", "c")),
        ("c", False, (None, "c")),
        ("<think>a", False, ("a", "")),
        ("a</think>c", True, ("a", "c")),
        ("a</think>c", False, (None, "a</think>c")),
        ("a", True, ("a", "")),
        ("<think></think>c", False, ("", "c")),
    ],
)
def test_reasoning(text: str, opened: bool, expected: tuple[str | None, str]) -> None:
    assert split_reasoning(text, opened=opened) == expected


@pytest.mark.parametrize("tag", ["<tool_call>", "</tool_call>", "</tool_call><tool_call>"])
def test_a_tag_inside_a_string_of_a_call_is_text(tag: str) -> None:
    call = json.dumps({"name": "say", "arguments": {"text": f"a {tag} b", tag: 1}})
    text, calls = hermes_calls(f"before <tool_call>\n{call}\n</tool_call> between <tool_call>{call}</tool_call> after")
    assert text == "before  between  after"
    assert [(c.name, c.arguments, c.error) for c in calls] == [("say", {"text": f"a {tag} b", tag: 1}, None)] * 2


def test_calls_that_cannot_be_read_for_one_reason_are_one_call() -> None:
    _, calls = hermes_calls("<tool_call>" * 64 + '{"name": "f"}</tool_call>')
    assert len(calls) == 64
    broken, whole = join_unread(calls)
    assert (whole.name, whole.id, whole.error) == ("f", "call_63", None)
    assert (broken.name, broken.id) == ("", "call_0")
    assert broken.error == f"{calls[0].error} (63 calls of this turn have this error)"


def test_at_most_some_calls_that_cannot_be_read_are_kept() -> None:
    calls = [ToolCall("f", {}, f"call_{n}", f"error {n}") for n in range(20)]
    kept = join_unread([*calls, ToolCall("g", {}, "call_20")])
    assert len(kept) == MOST_UNREAD + 1
    assert [call.error for call in kept[: MOST_UNREAD - 1]] == [f"error {n}" for n in range(MOST_UNREAD - 1)]
    assert kept[MOST_UNREAD - 1].error == "error 7 (13 calls of this turn have this error or another one)"
    assert kept[-1] == ToolCall("g", {}, "call_20")


def test_calls_that_can_be_read_stay_though_they_are_equal() -> None:
    calls = [ToolCall("f", {"n": 1}, f"call_{n}") for n in range(30)]
    assert join_unread(calls) == calls
