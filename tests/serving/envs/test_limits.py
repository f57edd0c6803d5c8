"""What a session may hold: time while a tool hangs, bytes of saved states, and a seat of its own over plain HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agentrl.env.tool_env import call
from agentrl.errors import EnvFault
from agentrl.serving.envs.client import connect
from agentrl.serving.envs.connection import Frames
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.guard import Gate
from agentrl.serving.envs.seats import Seat, Start
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.serving.envs.sessions import Bounds, Sessions
from agentrl.serving.envs.wire import SESSION, SESSION_HEADER, Request
from agentrl.serving.listener import KEEP_ALIVE_S
from agentrl.trajectory import EnvRef
from tests.serving.envs.conftest import ODD

_HANGS = call("wait", seconds=50)


def test_the_time_of_an_episode_is_over_while_a_tool_hangs() -> None:
    bounds = Bounds(episode_s=0.5)
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, bounds=bounds)) as server:
        env = connect(server.url, server.token)
        env.reset(seed=1)
        began = time.monotonic()
        with pytest.raises(EnvFault, match=r"gives an episode 0\.5 s, and this one took longer"):
            env.step(_HANGS)
        assert time.monotonic() - began < 20
        env.reset(seed=1)  # the next episode has its own time
        assert env.step("done")[1] == 1.0
        env.close()


@pytest.fixture
async def sessions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("agentrl.serving.envs.sessions._SWEEP_S", 0.05)
    served = Served(EnvRef(ODD), longest_s=60)
    found = Sessions(served.make, Bounds(idle_s=0.3, saved_bytes=4096))
    yield found
    await found.aclose()
    await served.aclose()


async def test_a_session_whose_client_has_gone_ends_while_a_tool_hangs(sessions: Sessions) -> None:
    session = await sessions.begin()
    await session.answer(Request(1, "reset", seed=1))
    working = asyncio.ensure_future(session.answer(Request(2, "step", action=_HANGS)))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(working, 20)
    assert session.id not in sessions


async def test_a_session_whose_client_waits_does_not_end_while_a_tool_works(sessions: Sessions) -> None:
    session = await sessions.begin()
    session.clients = 1
    await session.answer(Request(1, "reset", seed=1))
    await session.answer(Request(2, "step", action=call("wait", seconds=1.0)))
    assert session.id in sessions


class _Transport:
    """A connection that is closed later than it is asked to."""

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def test_a_connection_that_ends_before_it_has_joined_leaves_the_others_counted(sessions: Sessions) -> None:
    session = await sessions.begin()
    session.clients = 1
    headers = [(SESSION_HEADER.encode(), session.id.encode())]
    late = Frames({"type": "http", "path": SESSION, "headers": headers}, _Transport(), set(), set())
    late.shutdown()
    await late._join(sessions, Gate("", ("*",)), "1")
    late.connection_lost(None)
    assert session.clients == 1


async def test_a_seat_ends_while_a_tool_hangs(sessions: Sessions) -> None:
    seat = await Seat.at(sessions)
    await seat.reset(Start(1))
    with pytest.raises(EnvFault, match="the session was ended"):
        await asyncio.wait_for(seat.step(_HANGS), 20)
    assert not seat.is_open


async def test_saved_states_are_bounded_in_bytes(sessions: Sessions) -> None:
    session = await sessions.begin()
    await session.answer(Request(1, "reset", seed=1))
    episodes = session.episodes
    for n in range(2, 42):
        assert b'"saved"' in await session.answer(Request(n, "save"))
        assert episodes.saved.used_bytes <= 4096
    assert 1 <= len(episodes.saved) < 40
    assert episodes.saved.get(40) is not None
    episodes.instance.much = "x" * 10_000
    assert b"is larger than the" in await session.answer(Request(42, "save"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, token="")) as server:
        yield server.url


def test_two_clients_over_plain_http_have_an_episode_each(url: str) -> None:
    add = {"type": "call_tool", "tool_name": "add", "arguments": {"amount": 1}}
    with httpx.Client(base_url=url) as one, httpx.Client(base_url=url) as two:
        for client in (one, two):
            assert client.post("/reset", json={"seed": 1}).status_code == 200
        for count in ("1", "2"):
            assert one.post("/step", json={"action": add}).json()["observation"]["result"] == count
        assert two.post("/step", json={"action": add}).json()["observation"]["result"] == "1"
        assert one.get("/state").json()["step_count"] == 2
        assert two.get("/state").json()["step_count"] == 1
        without = httpx.post(f"{url}/step", json={"action": add})
        assert (without.status_code, "send the cookie" in without.text) == (409, True)


def test_a_client_without_cookies_names_its_session() -> None:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, token="")) as server:
        assert httpx.post(f"{server.url}/step", json={"text": "x"}).status_code == 409
        first = httpx.post(f"{server.url}/reset", json={}).json()
        assert httpx.post(f"{server.url}/step", json={"text": "x"}).json()["done"]  # the only one needs no name
        httpx.post(f"{server.url}/reset", json={})
        named = {"session_id": first["metadata"]["session_id"]}
        assert httpx.get(f"{server.url}/state", params=named).json()["step_count"] == 1
        assert httpx.get(f"{server.url}/state", params={"session_id": "other"}).status_code == 404
        assert (
            httpx.post(f"{server.url}/reset", params=named, json={}).json()["metadata"]["session_id"]
            == named["session_id"]
        )


def test_episodes_that_are_over_leave_their_places_to_clients_over_http() -> None:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, token="", bounds=Bounds(sessions=2))) as server:
        for _ in range(4):
            with httpx.Client(base_url=server.url) as client:
                assert client.post("/reset", json={}).status_code == 200
                assert client.post("/step", json={"text": "x"}).json()["done"]
        going_on = [httpx.post(f"{server.url}/reset", json={}).status_code for _ in range(3)]
        assert going_on == [200, 200, 503]


def test_a_server_keeps_idle_connections_longer_than_clients_do(url: str) -> None:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0)) as server:
        assert server._config.timeout_keep_alive == KEEP_ALIVE_S > 15
