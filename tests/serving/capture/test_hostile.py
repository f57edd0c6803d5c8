"""Hostile clients on a real socket: refused, nothing leaked, and the server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agentrl.env import registry
from agentrl.policy.base import SamplingParams
from agentrl.serving.capture import app as capture_app
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.session import Session
from agentrl.serving.chat_model import ChatModel
from agentrl.serving.listener import patient
from tests.serving.conftest import ENV

BODY = {"model": "any", "messages": [{"role": "user", "content": "Lamp 3?"}]}
JSON = {"content-type": "application/json"}


async def episode_of(model: ChatModel, name: str) -> Episode:
    env = registry.make(ENV)
    session = Session(model, SamplingParams(0.0, max_tokens=4), max_turns=8, name=name)
    episode = Episode(session, env, env.tasks.split("eval")[0])
    await episode.begin(1)
    return episode


@pytest.fixture
async def server(model: ChatModel) -> AsyncIterator[CaptureServer]:
    async with CaptureServer() as server:
        for name in ("mine", "other"):
            server.proxy.add(await episode_of(model, name))
        yield server


def keyed(server: CaptureServer, name: str = "mine") -> dict[str, str]:
    return {"authorization": f"Bearer {server.proxy.episodes[name].session.key}"}


async def goes_on(server: CaptureServer) -> None:
    """An honest request is answered as before."""
    async with httpx.AsyncClient(headers=keyed(server), timeout=20) as client:
        reply = await client.post(f"{server.url}/s/mine/v1/chat/completions", json=BODY)
    assert reply.status_code == 200


async def test_keys(server: CaptureServer) -> None:
    mine, other = keyed(server), keyed(server, "other")
    tried = [
        ("mine", {}),
        ("mine", {"authorization": "Bearer wrong"}),
        ("mine", {"authorization": mine["authorization"].removeprefix("Bearer ")}),
        ("mine", other),
        ("none", mine),
        ("mine", {"authorization": "Bearer \N{BULLET}".encode()}),
    ]
    said = set()
    async with httpx.AsyncClient() as client:
        for name, headers in tried:
            for path in ("v1/chat/completions", "v1/responses", "v1/messages", "tools/look", "answer", "done"):
                reply = await client.post(f"{server.url}/s/{name}/{path}", json=BODY, headers=headers)
                assert reply.status_code == 401, (name, path)
            for path in ("v1/models", "tools", "task"):
                reply = await client.get(f"{server.url}/s/{name}/{path}", headers=headers)
                assert reply.status_code == 401, (name, path)
                said.add(reply.text)
        reply = await client.post(f"{server.url}/next", json={}, headers=mine)
        assert reply.status_code in (204, 401)
        assert len(said) == 1  # nothing tells whether a session exists
        by_key = await client.post(f"{server.url}/v1/chat/completions", json=BODY, headers=mine)
        assert by_key.status_code == 200
    await goes_on(server)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"null",
        b'{"a":' * 5000,
        b'{"messages": [{"role": "user", "content": {"a": 1}}]}',
    ],
)
@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/responses", "v1/messages", "tools/look", "answer"])
async def test_malformed_bodies(server: CaptureServer, content: bytes, path: str) -> None:
    async with httpx.AsyncClient(headers={**keyed(server), **JSON}) as client:
        reply = await client.post(f"{server.url}/s/mine/{path}", content=content)
        wrong_type = await client.post(
            f"{server.url}/s/mine/{path}", content=content, headers={"content-type": "text/plain"}
        )
    assert reply.status_code in (200, 400), reply.text
    assert reply.status_code == 400 or path == "tools/look"  # the environment answers odd arguments itself
    assert wrong_type.status_code == 415


async def test_odd_but_valid_json(server: CaptureServer) -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    calls = [{"id": "x", "type": "function", "function": {"name": "look", "arguments": json.dumps(deep)}}]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    odd = [
        {"tools": [{"type": "function", "function": {"name": "look", "parameters": deep}}]},
        {"messages": [*BODY["messages"], turn, {"role": "tool", "tool_call_id": "x", "content": "1"}]},
        {"tools": [{"type": "function"}]},
        {"tools": {"a": 1}},
        {"messages": [{"role": "root", "content": "x"}]},
        {"messages": [{"content": "x"}]},
        {"messages": [None]},
        {"stream": "yes"},
        {"stop": [1]},
        {"max_tokens": True},
        {"model": ["x"]},
        {"tool_choice": 7},
    ]
    async with httpx.AsyncClient(headers=keyed(server), timeout=20) as client:
        for change in odd:
            reply = await client.post(f"{server.url}/s/mine/v1/chat/completions", json={**BODY, **change})
            assert reply.status_code in (200, 400), (change, reply.text)
        for body in ({"input": [{"type": "function_call"}]}, {"input": 7}, {"input": [{"type": "message"}]}):
            reply = await client.post(f"{server.url}/s/mine/v1/responses", json=body)
            assert reply.status_code in (200, 400), (body, reply.text)
        for block in ({"type": "tool_result"}, {"type": "tool_use"}, {}, {"type": "thinking", "signature": 7}):
            messages = [{"role": "assistant", "content": [block]}, {"role": "user", "content": [block]}]
            reply = await client.post(f"{server.url}/s/mine/v1/messages", json={"messages": messages, "max_tokens": 3})
            assert reply.status_code in (200, 400), (block, reply.text)
    await goes_on(server)


@pytest.mark.parametrize(
    "path",
    [
        "/s/mine/../other/task",
        "/s/%2e%2e/task",
        "//s/mine/task",
        "/s/mine/tools/..%2f..%2fhealth",
        "/s//task",
        "/s/mine%00/task",
    ],
)
async def test_path_tricks(server: CaptureServer, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {keyed(server)['authorization']}\r\n\r\n"
    writer.write(head.encode())
    status = (await reader.readline()).split()[1]
    assert status in (b"400", b"401", b"404", b"405")
    writer.close()
    await goes_on(server)


async def test_a_foreign_host(server: CaptureServer) -> None:
    async with httpx.AsyncClient(headers={**keyed(server), "host": "evil.example"}) as client:
        for path in ("health", "s/mine/task"):
            assert (await client.get(f"{server.url}/{path}")).status_code == 400


async def test_a_body_that_is_too_large(server: CaptureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.serving.app._MOST_BYTES", 1 << 16)
    async with httpx.AsyncClient(headers={**keyed(server), **JSON}) as client:
        for path in ("v1/chat/completions", "tools/look"):
            reply = await client.post(f"{server.url}/s/mine/{path}", content=b" " * (1 << 17))
            assert reply.status_code == 413
    await goes_on(server)


async def test_slow_clients_lose_their_place(server: CaptureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_app, "BODY_S", 0.3)
    monkeypatch.setattr(server._server.config, "http_protocol_class", patient(0.3))
    port = int(server.url.rpartition(":")[2])
    slow = []
    for sent in (b"", b"POST /s/mine/v1/chat", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        slow.append((reader, writer))
    key = keyed(server)["authorization"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /s/mine/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {key}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    async with asyncio.timeout(60):
        assert b"408" in await reader.readline()
        for other, _ in slow:
            assert await other.read() == b""
    for _, other in [*slow, (reader, writer)]:
        other.close()
    monkeypatch.undo()
    await goes_on(server)


async def test_a_connection_in_use_keeps_its_place(server: CaptureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lasts longer than the head of a request may take, and than it may be silent."""
    monkeypatch.setattr(server._server.config, "http_protocol_class", patient(0.4))
    monkeypatch.setattr(server._server.config, "timeout_keep_alive", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    async with asyncio.timeout(60):
        for _ in range(6):
            writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await reader.readuntil(b"}")).endswith(b'{"status":"ok"}')
            await asyncio.sleep(0.2)
        assert await reader.read() == b""  # no more requests: it ends
    writer.close()


async def test_a_thousand_idle_sessions(server: CaptureServer, model: ChatModel) -> None:
    env = registry.make(ENV)
    task = env.tasks.split("eval")[0]
    for number in range(1000):
        session = Session(model, SamplingParams(), max_turns=8, name=f"idle{number}")
        server.proxy.add(Episode(session, env, task))
    await goes_on(server)
    for episode in list(server.proxy.episodes.values()):
        server.proxy.remove(episode.session)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{server.url}/health")).json() == {"status": "ok"}
