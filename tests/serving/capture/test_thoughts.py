"""Thoughts in the three APIs: told once, named by a signature that finds the turn again, never needed to go on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from msgspec import structs

from agentrl.serving.capture.episode import Episode

QUESTION = "Lamp 3?"
MESSAGES = {"messages": [{"role": "user", "content": QUESTION}]}
ASK: dict[str, dict[str, Any]] = {
    "chat/completions": MESSAGES,
    "responses": {"input": QUESTION},
    "messages": {**MESSAGES, "max_tokens": 40},
}


@pytest.fixture(autouse=True)
def thinks(episode: Episode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn says a text behind a thought."""
    chat_format = episode.session.model.policy.format
    parse = chat_format.parse

    def parsed(*arguments: Any) -> Any:
        return structs.replace(parse(*arguments), text="red", tool_calls=(), reasoning="I saw it.")

    monkeypatch.setattr(chat_format, "parse", parsed)


async def said(client: httpx.AsyncClient, path: str, *, stream: bool, **change: Any) -> list[dict[str, Any]]:
    """The answer, or its events."""
    reply = await client.post(f"v1/{path}", json={"model": "any", **ASK[path], "stream": stream, **change})
    assert reply.status_code == 200, reply.text
    parts = [part.rpartition("data: ")[2] for part in reply.text.split("\n\n") if "data: " in part]
    return [json.loads(part) for part in parts if part != "[DONE]"] if stream else [reply.json()]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "pieces"])
async def test_responses(client: httpx.AsyncClient, episode: Episode, stream: bool) -> None:
    *events, last = await said(client, "responses", stream=stream)
    output = last["response"]["output"] if stream else last["output"]
    (node,) = episode.session.nodes
    assert [item["type"] for item in output] == ["reasoning", "message"]
    assert node.id in output[0]["encrypted_content"]
    if stream:
        assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == output
    user = {"role": "user", "content": "Sure?"}
    await said(client, "responses", stream=stream, input=[{"role": "user", "content": QUESTION}, *output, user])
    assert episode.session.nodes[1].parent is node


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "pieces"])
async def test_messages(client: httpx.AsyncClient, episode: Episode, stream: bool) -> None:
    events = await said(client, "messages", stream=stream)
    (node,) = episode.session.nodes
    thought = {"type": "thinking", "thinking": "I saw it.", "signature": f"sig_{node.id}"}
    if stream:
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        assert [delta["type"] for delta in deltas] == ["thinking_delta", "signature_delta", "text_delta"]
        assert deltas[1]["signature"] == thought["signature"]
    else:
        assert events[0]["content"] == [thought, {"type": "text", "text": "red"}]
    for text, edited in (("red", False), ("red, I think", True)):
        turn = {"role": "assistant", "content": [thought, {"type": "text", "text": text}]}
        messages = [*MESSAGES["messages"], turn, {"role": "user", "content": "Sure?"}]
        await said(client, "messages", stream=stream, messages=messages)
        last = episode.session.nodes[-1]
        assert (last.parent is node, last.edited) == (not edited, edited)  # the signature names the turn all the same


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "pieces"])
async def test_chat(client: httpx.AsyncClient, episode: Episode, stream: bool) -> None:
    *_, last = await said(client, "chat/completions", stream=False)
    message = last["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("I saw it.", "red")
    kept, dropped = message, {"role": "assistant", "content": "red"}
    for turn in (kept, dropped):  # some clients send thoughts back, some do not
        messages = [*MESSAGES["messages"], turn, {"role": "user", "content": "Sure?"}]
        events = await said(client, "chat/completions", stream=stream, messages=messages)
        assert episode.session.nodes[-1].parent is episode.session.nodes[0]
        if stream:
            assert [e["choices"][0]["delta"]["reasoning_content"] for e in events if "reasoning_content" in str(e)] == [
                "I saw it."
            ]
