"""The three APIs: one conversation through each gives the same turns; what is refused, in each one's own form."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from agentrl.learning.rows import rows_of_trajectory
from agentrl.serving.capture.episode import Episode
from agentrl.trajectory import EnvRef, Trajectory

TOOL = {"name": "look", "description": "Look at a lamp."}
SCHEMA = {"type": "object", "properties": {"lamp": {"type": "integer"}}, "required": ["lamp"]}
QUESTION, RESULT, ANSWER = "Lamp 3?", "It is red.", "red"


async def posted(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    """The answer; one in pieces is put together as that API's clients do."""
    reply = await client.post(f"v1/{path}", json={"model": "any", **body})
    assert reply.status_code == 200, reply.text
    if not body.get("stream"):
        return reply.json()
    parts = [part for part in reply.text.split("\n\n") if part and not part.startswith(":")]
    data = [part.rpartition("data: ")[2] for part in parts]
    return JOINED[path]([json.loads(text) for text in data if text != "[DONE]"])


def joined_chat(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    text = "".join(delta.get("content") or "" for delta in deltas)
    message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    return {"choices": [{"message": message, "finish_reason": chunks[-1]["choices"][0]["finish_reason"]}]}


def joined_responses(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    final = events[-1]["response"]
    assert [item["type"] for item in final["output"]] == [item["type"] for item in done]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "".join(i["content"][0]["text"] for i in done if i["type"] == "message")
    return {**final, "output": done}


def joined_messages(events: list[dict[str, Any]]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"]})
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            if delta["type"] == "text_delta":
                block["text"] += delta["text"]
            else:
                block["input"] = json.loads(delta["partial_json"])
    (stop,) = [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"]
    return {"content": blocks, "stop_reason": stop}


JOINED = {"chat/completions": joined_chat, "responses": joined_responses, "messages": joined_messages}


async def by_chat(client: httpx.AsyncClient, stream: bool) -> tuple[str, str]:
    asked = {"tools": [{"type": "function", "function": {**TOOL, "parameters": SCHEMA}}], "stream": stream}
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    first = (await posted(client, "chat/completions", messages=messages, **asked))["choices"][0]
    (call,) = first["message"]["tool_calls"]
    messages += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": RESULT}]
    second = (await posted(client, "chat/completions", messages=messages, **asked))["choices"][0]
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "stop")
    return call["function"]["arguments"], second["message"]["content"]


async def by_responses(client: httpx.AsyncClient, stream: bool) -> tuple[str, str]:
    tool = {"type": "namespace", "tools": [{"type": "function", **TOOL, "parameters": SCHEMA, "strict": True}]}
    asked = {"tools": [tool, {"type": "web_search"}], "stream": stream, "store": False}
    items: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    first = await posted(client, "responses", input=items, **asked)
    (call,) = first["output"]
    items += [call, {"type": "function_call_output", "call_id": call["call_id"], "output": RESULT}]
    second = await posted(client, "responses", input=items, **asked)
    assert first["status"] == second["status"] == "completed"
    return call["arguments"], second["output"][0]["content"][0]["text"]


async def by_messages(client: httpx.AsyncClient, stream: bool) -> tuple[str, str]:
    tools = [{**TOOL, "input_schema": SCHEMA}, {"type": "web_search_20250305", "name": "web_search"}]
    told = [{"type": "text", "text": "x-anthropic-billing-header: 17"}]
    asked = {"system": told, "tools": tools, "max_tokens": 64000, "stream": stream, "thinking": {"type": "adaptive"}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    first = await posted(client, "messages", messages=messages, **asked)
    (use,) = first["content"]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": RESULT}]}
    messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    second = await posted(client, "messages", messages=messages, **asked)
    assert (first["stop_reason"], second["stop_reason"]) == ("tool_use", "end_turn")
    return json.dumps(use["input"]), second["content"][0]["text"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "pieces"])
@pytest.mark.parametrize("by", [by_chat, by_responses, by_messages])
async def test_every_dialect_gives_the_same_row(
    client: httpx.AsyncClient, episode: Episode, by: Any, stream: bool
) -> None:
    assert await by(client, stream) == ('{"lamp": 3}', ANSWER)
    session = episode.session
    (row,) = rows_of_trajectory(Trajectory(EnvRef("x"), episode.task, 0, turns=session.turns()))
    chat_format = session.model.policy.format
    first, second = session.nodes
    more = chat_format.render_more(second.new, closed=True)
    assert tuple(row.ids) == second.ids == (*first.ids, *more, *second.choice.done.ids)
    assert first.action.prompt_ids == tuple(chat_format.render_first(first.new, first.tools))
    assert [message.content for message in first.new] == [QUESTION]
    assert session.counts() == {"roots": 1, "edited": 0, "unread": 0, "retries": 0, "too_long": 0}


SYSTEM: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "developer", "content": "Be."}, {"role": "user", "content": QUESTION}]},
    "responses": {"instructions": "Be.", "input": QUESTION},
    "messages": {
        "system": [{"type": "text", "text": "Be."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    },
}


@pytest.mark.parametrize("path", SYSTEM)
async def test_instructions_are_a_system_message(client: httpx.AsyncClient, episode: Episode, path: str) -> None:
    await posted(client, path, **SYSTEM[path])
    (node,) = episode.session.nodes
    assert [(m.role, m.content) for m in node.new] == [("system", "Be."), ("user", QUESTION)]


ASK: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": QUESTION}]},
    "responses": {"input": QUESTION},
    "messages": {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 9},
}
LONG = "word " * 600
WRONG = [
    ("chat/completions", {"n": 3}, "n = 3 is not offered"),
    ("chat/completions", {"logprobs": True}, "logprobs = True is not offered"),
    ("chat/completions", {"messages": []}, "there are no messages"),
    ("chat/completions", {"messages": "hello"}, "messages must be a list"),
    ("chat/completions", {"max_tokens": -1}, "whole number from 1 on"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text"),
    ("chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, "the last message is the assistant's"),
    ("chat/completions", {"messages": [{"role": "user", "content": LONG}]}, "maximum context length is 256"),
    ("responses", {"previous_response_id": "resp_1"}, "send the whole conversation"),
    ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference' is not offered"),
    ("responses", {"input": LONG}, "maximum context length is 256"),
    ("messages", {"thread": {"type": "create"}}, "threads are not kept here"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text"),
    ("messages", {"messages": [{"role": "user", "content": LONG}]}, "prompt is too long"),
]


@pytest.mark.parametrize(("path", "change", "why"), WRONG)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_offered_is_refused_with_a_sentence(
    client: httpx.AsyncClient, episode: Episode, path: str, change: dict[str, Any], why: str, stream: bool
) -> None:
    reply = await client.post(f"v1/{path}", json={"model": "any", **ASK[path], "stream": stream, **change})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert why in error["message"]
    if "maximum" in error["message"]:
        code = error["details"]["error_code"] if path == "messages" else error["code"]
        assert code == "context_length_exceeded"
        assert episode.session.too_long == 1
    assert not episode.session.tree.nodes


@pytest.mark.parametrize("path", ASK)
async def test_half_of_a_character_is_refused(client: httpx.AsyncClient, path: str) -> None:
    body = json.dumps({"model": "any", **ASK[path]}).replace("Lamp", "Lamp \\ud83d")
    reply = await client.post(f"v1/{path}", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert "half of a character" in reply.json()["error"]["message"]


async def test_a_thread_is_refused_in_the_words_that_its_client_reads(client: httpx.AsyncClient) -> None:
    reply = await client.post("v1/messages", json={**ASK["messages"], "model": "x", "thread": {"type": "create"}})
    assert reply.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
    assert reply.json()["type"] == "error"
