"""A session's tree: what a key survives, what forks, retries, clients that hang up, sub-agents."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from agentrl.messages import Action, ToolCall
from agentrl.serving.capture.app import Proxy
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.server import CaptureServer
from tests.serving.capture.agents import spaced

ASK = {"role": "user", "content": "Lamp 12?"}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("look", "wait")
]


async def asked(client: httpx.AsyncClient, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    headers = fields.pop("headers", {})
    body = {"model": "any", "messages": list(messages), "tools": TOOLS, **fields}
    reply = await client.post("v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]


def result(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "It is red."}


def touched(message: dict[str, Any], **change: Any) -> dict[str, Any]:
    """A turn whose call was changed."""
    copy = json.loads(json.dumps(message))
    copy["tool_calls"][0]["function"] |= change.pop("function", {})
    copy["tool_calls"][0] |= change.pop("call", {})
    return {**copy, **change}


async def second(client: httpx.AsyncClient, **change: Any) -> None:
    """A conversation whose first turn comes back changed."""
    first = await asked(client, ASK)
    arguments = change.pop("arguments", lambda text: text)(first["tool_calls"][0]["function"]["arguments"])
    back = touched(first, **{**change, "function": {"arguments": arguments, **change.get("function", {})}})
    await asked(client, ASK, back, result(back))


SAME = {
    "nothing": {},
    "another id of the call": {"call": {"id": "toolu_1"}},
    "arguments with other blanks": {"arguments": spaced},
    "empty content": {"content": ""},
    "content as parts": {"content": [{"type": "text", "text": ""}]},
    "unknown fields": {"refusal": None, "annotations": [], "reasoning_content": "hm"},
}
EDITED = {
    "an argument added": {"arguments": lambda text: json.dumps({**json.loads(text), "unit": "cm"})},
    "another tool": {"function": {"name": "wait"}},
    "text beside the call": {"content": "I look."},
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
async def test_a_turn_is_known_again(client: httpx.AsyncClient, episode: Episode, change: dict[str, Any]) -> None:
    await second(client, **change)
    first, after = episode.session.nodes
    assert after.parent is first
    assert after.ids[: len(first.ids)] == first.ids


@pytest.mark.parametrize("change", EDITED.values(), ids=EDITED)
async def test_an_edited_turn_forks_and_is_recorded(
    client: httpx.AsyncClient, episode: Episode, change: dict[str, Any]
) -> None:
    await second(client, **change)
    assert [(node.parent, node.edited) for node in episode.session.nodes] == [(None, False), (None, True)]
    assert episode.session.counts()["edited"] == 1


async def test_the_order_of_tools_does_not_count(client: httpx.AsyncClient, episode: Episode) -> None:
    first = await asked(client, ASK)
    await asked(client, ASK, first, result(first), tools=TOOLS[::-1])
    assert episode.session.nodes[1].parent is episode.session.nodes[0]


@pytest.mark.parametrize("arguments", ['{"INVALID_JSON": "{"}', "{}", "{"])
async def test_a_call_that_cannot_be_read_is_known_by_its_id(
    client: httpx.AsyncClient, episode: Episode, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    broken = Action(tool_calls=(ToolCall("look", error="not valid JSON"),))
    monkeypatch.setattr(episode.session.model.policy.format, "parse", lambda *_: broken)
    first = await asked(client, ASK)
    assert "cannot be read" in first["tool_calls"][0]["function"]["arguments"]
    back = touched(first, function={"arguments": arguments})
    await asked(client, ASK, back, result(back))
    assert episode.session.nodes[1].parent is episode.session.nodes[0]


async def test_of_two_equal_turns_the_one_that_is_named_goes_on(client: httpx.AsyncClient, episode: Episode) -> None:
    first, again = await asked(client, ASK), await asked(client, ASK)
    assert first["tool_calls"][0]["id"] != again["tool_calls"][0]["id"]
    await asked(client, ASK, first, result(first))
    one, _, after = episode.session.nodes
    assert after.parent is one


async def test_another_conversation_is_a_root_of_its_own(client: httpx.AsyncClient, episode: Episode) -> None:
    first = await asked(client, ASK)
    await asked(client, {"role": "system", "content": "You help."}, ASK)
    await asked(client, ASK, first, result(first))
    assert [node.parent is None for node in episode.session.nodes] == [True, True, False]
    assert episode.session.counts() | {"roots": 2, "edited": 0} == episode.session.counts()


async def test_a_retry_that_says_so_gets_the_same_turn(client: httpx.AsyncClient, episode: Episode) -> None:
    first = await asked(client, ASK)
    again = await asked(client, ASK, headers={"x-stainless-retry-count": "1"})
    assert again == first
    assert (len(episode.session.nodes), episode.session.retries) == (1, 1)


async def test_three_equal_requests_at_once_are_three_turns(client: httpx.AsyncClient, episode: Episode) -> None:
    answers = await asyncio.gather(*(asked(client, ASK) for _ in range(3)))
    assert len({answer["tool_calls"][0]["id"] for answer in answers}) == 3
    assert len(episode.session.nodes) == 3


class Slow:
    """An engine whose turns wait for a sign."""

    def __init__(self, episode: Episode) -> None:
        self._engine, self.release = episode.session.model.policy.engine, lambda owner: None
        self.options, self.busy = self._engine.options, 0
        self.go, self.asked = asyncio.Event(), 0
        self.cancelled = 0
        episode.session.model.policy.engine = self

    async def sample(self, *arguments: Any, **named: Any) -> Any:
        self.asked += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self._engine.sample(*arguments, **named)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_ends_its_sampling_and_its_retry_is_one_turn(
    episode: Episode, stream: bool
) -> None:
    slow = Slow(episode)
    body = {"model": "any", "messages": [ASK], "tools": TOOLS, "stream": stream}
    async with CaptureServer(ping_s=0.02) as server:
        server.proxy.add(episode)
        url = f"{server.url}/s/one/v1/chat/completions"
        headers = {"authorization": f"Bearer {episode.session.key}"}
        async with httpx.AsyncClient(headers=headers, timeout=0.3) as client:
            with pytest.raises(httpx.ReadTimeout):
                async with asyncio.timeout(1.0):  # pings keep a stream alive: it ends by this
                    await client.post(url, json=body) if not stream else await _until_cut(client, url, body)
        while slow.cancelled < 1:
            await asyncio.sleep(0.01)
        slow.go.set()
        async with httpx.AsyncClient(headers=headers, timeout=20) as client:
            assert (await client.post(url, json=body)).status_code == 200
            assert (await client.post(url, json=body)).status_code == 200  # a deliberate repeat is a turn of its own
    assert (len(episode.session.tree.nodes), len(episode.session.nodes), slow.asked) == (2, 2, 3)


async def _until_cut(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
    async with client.stream("POST", url, json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith(":"):
                raise httpx.ReadTimeout("a ping came, and the client has had enough")


async def test_a_turn_that_nobody_read_goes_to_the_next_equal_request(episode: Episode, proxy: Proxy) -> None:
    session = episode.session
    node_ids = []

    async def with_gone_client(is_gone: bool) -> httpx.Response:
        transport = httpx.ASGITransport(_deaf(proxy.app) if is_gone else proxy.app)
        headers = {"authorization": f"Bearer {session.key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            body = {"model": "any", "messages": [ASK], "tools": TOOLS}
            reply = await client.post("/s/one/v1/chat/completions", json=body)
            node_ids.append([node.id for node in session.tree.nodes])
            return reply

    engine = session.model.policy.engine
    sample = engine.sample

    async def deaf_sample(*arguments: Any, **named: Any) -> Any:
        done = await sample(*arguments, **named)
        HANG_UP.set()
        return done

    engine.sample = deaf_sample  # type: ignore[method-assign]
    HANG_UP.clear()
    await with_gone_client(True)
    assert (len(session.tree.nodes), len(session.nodes)) == (1, 0)
    assert session.counts()["unread"] == 1
    assert (await with_gone_client(False)).status_code == 200
    assert node_ids[0] == node_ids[1]
    assert len(session.nodes) == 1
    await with_gone_client(False)
    assert len(session.nodes) == 2


HANG_UP = asyncio.Event()


def _deaf(app: Any) -> Any:
    """The application for a client that hangs up when its turn has been sampled."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        body_read = False

        async def hear() -> Any:
            nonlocal body_read
            if not body_read:
                message = await receive()
                body_read = not message.get("more_body", False)
                return message
            await HANG_UP.wait()
            return {"type": "http.disconnect"}

        await app(scope, hear, send)

    return call


async def test_a_session_ends(client: httpx.AsyncClient, episode: Episode) -> None:
    episode.session.max_turns = 1
    await asked(client, ASK)
    reply = await client.post("v1/chat/completions", json={"model": "any", "messages": [ASK], "tools": []})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "session_over")
    await episode.session.end("the agent has ended")
    reply = await client.post("v1/responses", json={"model": "any", "input": "x"})
    assert "the agent has ended" in reply.json()["error"]["message"]
