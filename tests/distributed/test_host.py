"""What an actor holds, without Ray: the order of weights and groups, errors as answers, late answers dropped."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from agentrl.distributed import host
from agentrl.distributed.host import Host, Outcome
from agentrl.distributed.messages import Setup
from agentrl.distributed.shared import packed_bytes
from agentrl.distributed.worker import Weights, WorkerLost
from agentrl.errors import RolloutError
from agentrl.rollout.requests import GroupRequest
from agentrl.sampling import SamplingParams
from agentrl.trajectory import EnvRef, Task, TrajectoryGroup

SETUP = Setup(EnvRef("x"), (), SamplingParams(), "auto", 1, None, True, 1, 3, False, 1, 20, False, 5.0, 120.0)
REQUEST = GroupRequest(Task("t"), 0, 1, group_id="g")


class Played:
    """A sampling process that notes what it is told, in order."""

    cpu_s, memory_bytes, place = 1.5, 7, "process 1"

    def __init__(self, number: int, setup: Setup, model: Any, on_free: Any) -> None:
        self.told: list[Any] = []
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.groups: list[asyncio.Future[TrajectoryGroup]] = []
        self.broken: Exception | None = None

    async def start(self) -> None:
        if self.broken is not None:
            raise self.broken

    def take_weights(self, weights: Weights) -> None:
        self.told.append(weights.version)

    def play(self, request: Any, version: int, sampling: Any) -> asyncio.Future[TrajectoryGroup]:
        self.told.append((request.group_id, version))
        self.groups.append(asyncio.get_running_loop().create_future())
        return self.groups[-1]

    async def until_lost(self) -> None:
        await self.lost

    async def aclose(self) -> None:
        self.told.append("closed")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LocalWorker", Played)


def made() -> tuple[Host, Any]:
    found = Host(0, pickle.dumps(SETUP), packed_bytes({}), [])
    return found, found._worker


def asked(version: int) -> bytes:
    return pickle.dumps((REQUEST, version, None))


@pytest.mark.usefixtures("played")
async def test_a_group_waits_for_the_weights_that_it_was_asked_with() -> None:
    """Ray may deliver a group before the weights that were sent before it."""
    one, worker = made()
    outcome = asyncio.ensure_future(one.play(0, asked(5)))
    await one.take_weights(4, packed_bytes({}))
    await asyncio.sleep(0.01)
    assert worker.told == [4]
    await one.take_weights(5, packed_bytes({}))
    await one.take_weights(4, packed_bytes({}))  # late
    await asyncio.sleep(0.01)
    assert worker.told == [4, 5, ("g", 5)]
    group = TrajectoryGroup("g", [])
    worker.groups[0].set_result(group)
    found = await outcome
    assert isinstance(found, Outcome)
    assert found.cpu_s == 1.5
    assert found.group() == group


@pytest.mark.usefixtures("played")
async def test_errors_are_answers_and_a_cancelled_group_stops() -> None:
    one, worker = made()
    first, second = (asyncio.ensure_future(one.play(ticket, asked(3))) for ticket in (0, 1))
    await asyncio.sleep(0.01)
    worker.groups[0].set_exception(WorkerLost("gone"))
    assert isinstance(await first, WorkerLost)
    await one.cancel(1)
    assert isinstance(await second, RolloutError)
    assert worker.groups[1].cancelled()
    worker.broken = RolloutError("no such module")
    assert str(await one.start()) == "no such module"
    worker.lost.set_exception(WorkerLost("killed"))
    assert str(await one.until_lost()) == "killed"
    await one.close()
    assert worker.told[-1] == "closed"


def test_a_group_that_cannot_be_read_is_an_error() -> None:
    assert isinstance(Outcome(b"no pickle", 0.0).group(), RolloutError)
