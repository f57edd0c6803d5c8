"""A line of recorded chat: what becomes of each field, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentrl.messages import Message, ToolCall
from agentrl.rollout.sources.chat_file import ChatError, chat_of, turn_weights
from agentrl.trajectory import Task

PRICE = {"type": "function", "function": {"name": "price", "parameters": {"type": "object", "properties": {}}}}


def call(name: str = "price", arguments: Any = '{"item": "tea"}', id: str = "a") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def line(*messages: dict[str, Any], **fields: Any) -> str:
    return json.dumps({"messages": list(messages), **fields})


SYSTEM = {"role": "developer", "content": "Be short."}
USER = {"role": "user", "content": [{"type": "text", "text": "Price "}, {"type": "text", "text": "of tea?"}]}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call()]}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "3"}
SAYS = {"role": "assistant", "content": "3", "reasoning_content": "three"}


def test_a_chat_with_tools_becomes_turns() -> None:
    chat = chat_of(line(SYSTEM, USER, CALLS, RESULT, SAYS, tools=[PRICE], reward=1.0), 7)
    first, last = chat.turns
    assert first.observation == (Message("system", "Be short."), Message("user", "Price of tea?"))
    assert first.action.tool_calls == (ToolCall("price", {"item": "tea"}, "a"),)
    assert first.next_observation == last.observation == (Message("tool", "3", tool_call_id="a"),)
    assert (last.action.text, last.action.reasoning) == ("3", "three")
    assert (first.reward, last.reward, chat.success) == (0.0, 1.0, True)
    assert (chat.tools, chat.episode_id, chat.labels.mode) == ([PRICE], "line-7", "demonstration")
    assert all(turn.action.token_ids is None for turn in chat.turns)


def test_messages_after_the_last_turn_stay() -> None:
    chat = chat_of(line(USER, CALLS, RESULT, tools=[PRICE]), 1)
    assert chat.turns[-1].next_observation == (Message("tool", "3", tool_call_id="a"),)


@pytest.mark.parametrize(
    ("fields", "reward", "success", "rewarded"),
    [
        ({}, 0.0, False, False),
        ({"reward": 0.5}, 0.5, False, True),
        ({"reward": 1}, 1.0, True, True),
        ({"reward": 0.5, "success": True}, 0.5, True, True),
        ({"reward": 2.0, "success": False}, 2.0, False, True),
        ({"success": True}, 0.0, True, True),
    ],
)
def test_reward_and_verdict(fields: dict[str, Any], reward: float, success: bool, rewarded: bool) -> None:
    chat = chat_of(line(USER, SAYS, **fields), 1)
    assert (chat.reward, chat.success, chat.info["rewarded"]) == (reward, success, rewarded)


def test_chats_that_begin_alike_are_of_one_task_and_a_name_is_kept() -> None:
    same, other = chat_of(line(USER, SAYS), 1), chat_of(line(USER, {**SAYS, "content": "4"}), 2)
    shown = chat_of(line(USER, SAYS, tools=[PRICE]), 3)
    assert same.task == other.task != shown.task
    named = chat_of(line(USER, SAYS, task="tea"), 4).task
    assert named == Task("tea", "train", same.task.data)


def test_weights_of_the_chat_and_of_its_turns_are_multiplied() -> None:
    assert turn_weights(chat_of(line(USER, SAYS), 1)) is None
    first = {"role": "assistant", "content": "?", "weight": 0}
    assert turn_weights(chat_of(line(USER, first, USER, SAYS, weight=0.5), 1)) == (0.0, 0.5)


def test_unknown_fields_are_kept_only_when_asked() -> None:
    with pytest.raises(ChatError, match=r"the field 'rewrd' is not known here\. Did you mean 'reward'?"):
        chat_of(line(USER, SAYS, rewrd=1), 1)
    assert chat_of(line(USER, SAYS, rewrd=1, metadata={"a": 2}), 1, keep_unknown=True).info["metadata"] == {
        "a": 2,
        "rewrd": 1,
    }
    assert chat_of(line(USER, SAYS, functions=None), 1).turns  # an exporter's empty field says nothing


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[1]", "not a JSON object, but a list"),
        ('{"messages": NaN}', "is not JSON"),
        (b'{"messages": "\xff"}', "is not UTF-8"),
        ("{}", "messages must be a list"),
        (line(), "messages must be a list"),
        (line({"role": "robot", "content": "x"}, SAYS), r"messages\[0\].role must be system, user"),
        (line({"role": [], "content": "x"}, SAYS), r"messages\[0\].role must be system, user"),
        (line(USER), "no message of the assistant"),
        (line(SAYS), r"messages\[0\] is the assistant's"),
        (line(USER, SAYS, SAYS), r"messages\[1\] and messages\[2\] are both"),
        (line(USER, {"role": "assistant", "content": ""}), "says nothing and calls nothing"),
        (line({"role": "user"}, SAYS), r"messages\[0\].content is missing"),
        (line({"role": "user", "content": "x", "name": "Ann"}, SAYS), "the field 'name' of a message of role user"),
        (
            line({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, SAYS),
            r"messages\[0\].content\[0\] is of type 'image_url': only text",
        ),
        (line(USER, {**SAYS, "audio": {"id": "x"}}), "the field 'audio'"),
        (line(USER, {**SAYS, "function_call": {"name": "f"}}), "give the call as tool_calls"),
        (line(USER, SAYS, functions=[{}]), "give the functions as tools"),
        (line(USER, CALLS, RESULT, SAYS), "calls 'price', which is not in tools. Give the definitions"),
        (
            line(USER, {"role": "assistant", "tool_calls": [call("prize")]}, RESULT, tools=[PRICE]),
            "calls 'prize', which is not in tools. Did you mean 'price'?",
        ),
        (line(USER, CALLS, SAYS, tools=[PRICE]), r"messages\[1\] and messages\[2\] are both"),
        (line(USER, CALLS, USER, tools=[PRICE]), r"messages\[2\]: the call 'a' before it has no message of role tool"),
        (line(USER, CALLS, {**RESULT, "tool_call_id": "b"}, tools=[PRICE]), "no call waits for tool_call_id 'b'"),
        (
            line(USER, {"role": "assistant", "tool_calls": [call(), call()]}, tools=[PRICE]),
            "two calls have the id 'a'",
        ),
        (
            line(USER, {"role": "assistant", "tool_calls": [call(arguments='{"item": ')]}, tools=[PRICE]),
            "the call of 'price' cannot be read: arguments are not valid JSON",
        ),
        (
            line(USER, {"role": "assistant", "tool_calls": [call(arguments="[1]")]}, tools=[PRICE]),
            "arguments must be a JSON object",
        ),
        (line(USER, {"role": "assistant", "tool_calls": [{"name": "price"}]}), r"tool_calls\[0\] must be"),
        (line(USER, SAYS, tools=[{"name": "price"}]), r"tools\[0\] must be"),
        (line(USER, SAYS, reward="1"), "reward must be a number"),
        (line(USER, SAYS, reward=True), "reward must be a number"),
        (line(USER, SAYS, success=1), "success must be true or false"),
        (line(USER, SAYS, weight=-1), "weight must be 0 or more"),
        (line(USER, SAYS, weight=0), "every weight is 0"),
        (line(USER, {**SAYS, "weight": "x"}), r"messages\[1\].weight must be a number"),
        (line(USER, SAYS, task=[]), "task must be a name"),
        (line(USER, SAYS, metadata=[]), "metadata must be an object"),
    ],
)
def test_what_is_no_chat_is_refused_with_what_to_do(text: str | bytes, what: str) -> None:
    with pytest.raises(ChatError, match=what):
        chat_of(text, 1)
