"""What a client is handed is its own only when the bytes were written to it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentrl.errors import EnvFault
from agentrl.serving.capture.app import Proxy
from agentrl.serving.capture.desk import Desk
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.settings import AgentConfig


async def asked(proxy: Proxy, path: str, key: str, body: Any, *, hangs_up_at: str = "") -> bytes:
    """What a client reads that hangs up at a message of the answer. `asked`: while it waits."""
    gone, sent, parts = asyncio.Event(), False, []

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        if hangs_up_at != "asked":
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == hangs_up_at:
            gone.set()
        parts.append(message.get("body", b""))

    kind = (b"content-type", b"application/json")
    headers = [kind, (b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "scheme": "http"}
    await proxy.app({**scope, "server": ("localhost", 80), "root_path": "", "http_version": "1.1"}, receive, send)
    return b"".join(parts)


async def test_a_turn_is_unread_if_its_client_goes_during_the_answer(proxy: Proxy, episode: Episode) -> None:
    body = {"model": "any", "messages": [{"role": "user", "content": "Lamp 12?"}]}
    path, session = "/s/one/v1/chat/completions", episode.session
    await asked(proxy, path, session.key, body, hangs_up_at="http.response.start")
    assert (len(session.tree.nodes), session.nodes) == (1, [])
    answer = json.loads(await asked(proxy, path, session.key, body))
    assert answer["choices"]
    assert (len(session.tree.nodes), len(session.nodes)) == (1, 1)


async def test_an_episode_that_a_process_did_not_get_goes_to_the_next_one(proxy: Proxy) -> None:
    proxy.desk = desk = Desk(AgentConfig("true", processes=1), "http://localhost/next")
    desk._sessions["key"] = set()  # a process that asks by itself
    variables = {"AGENTRL_KEY": "one"}
    played = asyncio.create_task(desk.run(variables, lambda: 0.0))
    await asyncio.sleep(0)
    for place in ("asked", "http.response.start"):
        await asked(proxy, "/next", "key", {}, hangs_up_at=place)
    assert json.loads(await asked(proxy, "/next", "key", {})) == variables
    desk.done("one", "")
    assert (await played).status == 0


async def test_time_in_line_for_a_process_is_not_the_episodes() -> None:
    desk = Desk(AgentConfig("true", processes=1, timeout_s=0.001), "http://localhost/next")
    desk._sessions["key"] = set()  # a process that asks by itself
    first = asyncio.create_task(desk.run({"AGENTRL_KEY": "one"}, lambda: 1e6))  # it waits for the model
    await asyncio.sleep(0)
    assert await desk.next("key") == {"AGENTRL_KEY": "one"}
    second = asyncio.create_task(desk.run({"AGENTRL_KEY": "two"}, lambda: 0.0))
    await asyncio.wait({second}, timeout=0.05)
    assert not second.done()
    desk.done("one", "")
    assert await desk.next("key") == {"AGENTRL_KEY": "two"}
    assert (await first).status == 0
    assert (await second).status is None  # its own time is over


async def test_an_episode_that_no_process_takes_is_a_fault_that_says_so() -> None:
    desk = Desk(AgentConfig("true", processes=1, timeout_s=0.001), "http://localhost/next")
    desk._sessions["key"] = set()  # a process that never asks
    with pytest.raises(EnvFault, match=r"no process of the agent asked for an episode .* AGENTRL_NEXT_URL") as fault:
        await desk.run({"AGENTRL_KEY": "one"}, lambda: 0.0)
    assert fault.value.at == "author"
