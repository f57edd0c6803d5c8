"""Requests of the Responses and Messages APIs, field by field, and thoughts that go back to the server untouched."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest

from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.rollout.records import trajectory_from_json, trajectory_record
from agentrl.trajectory import EnvRef, Task, Trajectory, Turn
from tests.policy.conftest import TOOL
from tests.policy.remote.test_dialects import KEY, QUESTION, Server, no_wait, turn  # noqa: F401 (a fixture)
from tests.policy.remote.wire_bots import reply

SCHEMA = TOOL["function"]["parameters"]  # type: ignore[index]
DONE = (
    *QUESTION,
    Message("assistant", "Let me.", (ToolCall("add", {"a": 1, "b": 2}, "c1x"),)),
    Message("tool", "3", tool_call_id="c1x", name="add"),
)
THOUGHT = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "One and two."}],
    "encrypted_content": "gAAAA=",
}
THINKING = {"type": "thinking", "thinking": "One and two.", "signature": "EqQB+/="}
HIDDEN = {"type": "redacted_thinking", "data": "EmwK"}


async def test_a_request_of_the_responses_api() -> None:
    server = Server("responses")
    policy = server.policy(tool_choice={"type": "function", "function": {"name": "add"}}, parallel_tool_calls=False)
    await policy.act(DONE, [TOOL], episode_id="e", sampling=SamplingParams(0.5, 0.9, max_tokens=40, seed=3))
    assert server.bodies == [
        {
            "model": "bot",
            "input": [
                {"role": "system", "content": "Use the tool."},
                {"role": "user", "content": "1+2"},
                {"role": "assistant", "content": "Let me."},
                {"type": "function_call", "call_id": "c1x", "name": "add", "arguments": '{"a": 1, "b": 2}'},
                {"type": "function_call_output", "call_id": "c1x", "output": "3"},
            ],
            "max_output_tokens": 40,
            "temperature": 0.5,
            "top_p": 0.9,
            "store": False,
            "stream": False,
            "tools": [
                {"type": "function", "name": "add", "description": "Add.", "parameters": SCHEMA, "strict": False}
            ],
            "tool_choice": {"type": "function", "name": "add"},
            "parallel_tool_calls": False,
        }
    ]


async def test_a_request_of_the_messages_api() -> None:
    server = Server("anthropic")
    policy = server.policy(tool_choice="required", parallel_tool_calls=False)
    later = (*DONE, Message("user", "And now?"), Message("system", "Be short."))
    await policy.act(later, [TOOL], episode_id="e", sampling=SamplingParams(max_tokens=40, stop=("END",), seed=3))
    assert server.bodies == [
        {
            "model": "bot",
            "max_tokens": 40,
            "system": "Use the tool.",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "1+2"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Let me."},
                        {"type": "tool_use", "id": "c1x", "name": "add", "input": {"a": 1, "b": 2}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1x", "content": "3"},
                        {"type": "text", "text": "And now?"},
                        {"type": "text", "text": "Be short."},
                    ],
                },
            ],
            "stop_sequences": ["END"],
            "tools": [{"name": "add", "description": "Add.", "input_schema": SCHEMA}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        }
    ]


@pytest.mark.parametrize(
    ("sampling", "headers", "version"),
    [
        ({}, {}, "2026-10-21"),
        ({"temperature": 0.0}, {}, "2023-06-01"),
        ({"top_k": 4}, {}, "2023-06-01"),
        ({"top_p": 0.5}, {"Anthropic-Version": "2027-01-01"}, "2027-01-01"),
    ],
)
async def test_the_version_is_one_that_knows_the_fields(
    sampling: dict[str, Any], headers: dict[str, str], version: str
) -> None:
    server = Server("anthropic")
    client = httpx.AsyncClient(transport=httpx.MockTransport(server), headers=headers)
    await turn(server.policy(client=client, headers=headers), **sampling)
    assert server.requests[0].headers["anthropic-version"] == version
    assert {name: server.bodies[0][name] for name in sampling} == sampling
    assert "temperature" in sampling or "temperature" not in server.bodies[0]


async def test_a_conversation_of_the_messages_api_begins_with_the_user_and_has_no_empty_text() -> None:
    server = Server("anthropic", reply("anthropic", "Hi."))
    await turn(server.policy(), (Message("assistant", " "), Message("user", "")))
    empty = [{"type": "text", "text": "(no text)"}]
    assert server.bodies[0]["messages"] == [
        {"role": "user", "content": empty},
        {"role": "assistant", "content": empty},
        {"role": "user", "content": empty},
    ]
    assert "system" not in server.bodies[0]


async def test_the_responses_api_has_no_stop_texts() -> None:
    with pytest.raises(ConfigError, match="no stop texts"):
        await turn(Server("responses").policy(), stop=("END",))


# Thoughts.


def thinking(kind: str, *calls: tuple[str, str, Any], text: str = "") -> dict[str, Any]:
    """A reply that begins with thoughts."""
    made = reply(kind, text, calls)
    if kind == "responses":
        made["output"] = [THOUGHT, *made["output"]]
    else:
        made["content"] = [THINKING, HIDDEN, *made["content"]]
    return made


def later(action: Action) -> tuple[Message, ...]:
    return (*QUESTION, action.to_message(), Message("tool", "3", tool_call_id=action.tool_calls[0].id, name="add"))


def sent(kind: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The model's turn in a request."""
    if kind == "responses":
        return [item for item in body["input"] if item.get("type") in ("reasoning", "message", "function_call")]
    found: list[dict[str, Any]] = next(m["content"] for m in body["messages"] if m["role"] == "assistant")
    return found


THINKERS = pytest.mark.parametrize("kind", ["responses", "anthropic"])


@THINKERS
async def test_thoughts_go_back_as_they_came(kind: str) -> None:
    first = thinking(kind, ("c1x", "add", {"a": 1, "b": 2}), text="Let me.")
    server = Server(kind, first)
    policy = server.policy()
    action = await turn(policy)
    assert (action.text, action.reasoning) == ("Let me.", "One and two.")
    await turn(policy, later(action))
    assert sent(kind, server.bodies[1]) == first["output" if kind == "responses" else "content"]


@THINKERS
async def test_thoughts_are_part_of_the_record(kind: str) -> None:
    server = Server(kind, thinking(kind, ("c1x", "add", {"a": 1, "b": 2})))
    policy = server.policy()
    action = await turn(policy)
    played = Trajectory(EnvRef("e"), Task("t"), 0, [Turn(QUESTION, action), Turn(later(action)[2:], Action("3"))])
    back = trajectory_from_json(json.loads(msgspec.json.encode(trajectory_record(played))))
    assert [(t.observation, t.action) for t in back.turns] == [(t.observation, t.action) for t in played.turns]
    await turn(policy, later(back.turns[0].action))
    await turn(policy, later(action))
    assert server.bodies[1] == server.bodies[2]


@THINKERS
@pytest.mark.parametrize(
    "call", [("c1x", "no such tool!", {}), ("spaces in it", "add", {"a": 1}), ("c1x", "add", '{"a": 1')]
)
async def test_a_call_that_no_server_accepts_is_replaced_beside_its_thoughts(kind: str, call: Any) -> None:
    server = Server(kind, thinking(kind, call))
    policy = server.policy()
    await turn(policy, later(await turn(policy)))
    turn_sent = sent(kind, server.bodies[1])
    assert turn_sent[0] == (THOUGHT if kind == "responses" else THINKING)
    name, call_id = ("name", "call_id") if kind == "responses" else ("name", "id")
    assert turn_sent[-1][name] == ("no_such_tool_" if call[1] != "add" else "add")
    assert turn_sent[-1][call_id] == ("call00000" if " " in call[0] else "c1x")


@THINKERS
async def test_a_turn_that_was_edited_is_sent_without_its_thoughts(kind: str) -> None:
    server = Server(kind, thinking(kind, ("c1x", "add", {"a": 1, "b": 2})))
    policy = server.policy()
    action = await turn(policy)
    edited = Message("assistant", "Summary of the above.", blocks=action.to_message().blocks)
    await turn(policy, (*QUESTION, edited, Message("user", "3+4")))
    body = server.bodies[1]
    said = {"role": "assistant", "content": "Summary of the above."}
    if kind == "anthropic":
        said["content"] = [{"type": "text", "text": "Summary of the above."}]  # type: ignore[assignment]
    assert said in body["input" if kind == "responses" else "messages"]


@THINKERS
async def test_thoughts_stay_here_where_they_are_not_wanted(kind: str) -> None:
    server = Server(kind, thinking(kind, ("c1x", "add", {"a": 1, "b": 2})))
    policy = server.policy(send_reasoning=False)
    action = await turn(policy)
    await turn(policy, later(action))
    assert [item["type"] for item in sent(kind, server.bodies[1])] == [
        "function_call" if kind == "responses" else "tool_use"
    ]


@THINKERS
async def test_thoughts_that_a_server_refuses_are_no_failure_of_the_model(kind: str) -> None:
    refusal = httpx.Response(400, json={"error": {"type": "invalid_request_error", "message": "wrong signature"}})
    server = Server(kind, thinking(kind, ("c1x", "add", {"a": 1, "b": 2})), refusal)
    policy = server.policy()
    action = await turn(policy, later(await turn(policy)))
    assert (action.text, action.finish_reason) == ("3", "stop")
    kinds = [item["type"] for item in sent(kind, server.bodies[2])]
    assert kinds == ["function_call" if kind == "responses" else "tool_use"]


async def test_thoughts_of_another_maker_are_left_out() -> None:
    action = await turn(Server("anthropic", thinking("anthropic", ("c1x", "add", {"a": 1, "b": 2}))).policy())
    server = Server("responses")
    await turn(server.policy(), later(action))
    assert [item["type"] for item in sent("responses", server.bodies[0])] == ["function_call"]


async def test_a_thought_that_the_server_keeps_to_itself_is_not_named() -> None:
    kept = {"id": "rs_1", "type": "reasoning", "summary": []}
    made = reply("responses", calls=[("c1x", "add", {"a": 1, "b": 2})])
    made["output"] = [kept, *made["output"]]
    server = Server("responses", made)
    policy = server.policy()
    action = await turn(policy)
    await turn(policy, later(action))
    assert [item["type"] for item in sent("responses", server.bodies[1])] == ["function_call"]


async def test_a_call_that_was_cut_off_is_not_made() -> None:
    server = Server("anthropic", reply("anthropic", calls=[("c1x", "add", {"a": 1})], finish="max_tokens"))
    action = await turn(server.policy())
    assert action.finish_reason == "length"
    assert "cut off" in (action.tool_calls[0].error or "")


async def test_a_paused_turn_is_no_turn() -> None:
    paused = reply("anthropic", "Wait.", finish="pause_turn")
    with pytest.raises(PolicyFault, match="pause_turn"):
        await turn(Server("anthropic", paused, paused).policy())


@THINKERS
async def test_a_key_that_a_server_echoes_stands_in_no_block(kind: str) -> None:
    told = f"the key is {KEY}"
    made = thinking(kind, ("c1x", "add", {"a": 1, "b": 2}), text=told)
    thoughts = made["output"] if kind == "responses" else made["content"]
    thoughts[0] = {**thoughts[0], **({"summary": [{"text": told}]} if kind == "responses" else {"thinking": told})}
    action = await turn(Server(kind, {**made, "model": KEY}).policy())
    assert action.reasoning == "the key is REDACTED"
    assert KEY not in repr(action)
