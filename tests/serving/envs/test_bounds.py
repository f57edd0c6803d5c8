"""What a server keeps is bounded: answers that nobody reads, and sessions that ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentrl.serving.envs.connection import Frames
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.openenv_door import OpenEnvDoor
from agentrl.serving.envs.sessions import Bounds, Sessions
from agentrl.serving.envs.wire import Request, encoded, frame
from agentrl.trajectory import EnvRef
from tests.serving.envs.conftest import ODD


class _Transport:
    """Notes what is written, and whether the server reads."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reads = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False


class _AtOnce:
    """A session that answers every request at once."""

    def answer_at_once(self, request: Request) -> bytes:
        return b"{}"


def test_a_client_that_does_not_read_gets_no_more_answers() -> None:
    transport, session = _Transport(), _AtOnce()
    frames: Any = Frames({}, transport, set(), set())
    frames._session = session
    frames.pause_writing()
    frames.data_received(frame(encoded(Request(1, "step"))))
    assert (transport.reads, transport.written) == (False, [])
    frames.resume_writing()
    assert (transport.reads, transport.written) == (True, [frame(b"{}")])


async def test_a_session_that_ended_is_not_kept_by_the_openenv_door() -> None:
    served = Served(EnvRef(ODD), longest_s=60)
    sessions = Sessions(served.make, Bounds())
    door = OpenEnvDoor(served, sessions)
    for _ in range(2):
        made = await door._rpc({"id": 1, "method": "openenv/session/create"}, None)
        await sessions.end(sessions.get(made["result"]["session_id"]))
    assert len(door._seats) == 1
    await sessions.aclose()
    await served.aclose()


async def test_an_idle_session_whose_close_raises_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.serving.envs.sessions._SWEEP_S", 0.0)
    served = Served(EnvRef(ODD), longest_s=60)
    sessions = Sessions(served.make, Bounds(idle_s=-1.0))
    broken, well = await sessions.begin(), await sessions.begin()

    async def raises() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(broken, "close", raises)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert well.id not in sessions
    await sessions.aclose()
    await served.aclose()
