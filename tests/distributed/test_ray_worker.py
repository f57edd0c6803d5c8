"""The trainer's side of an actor, with a stand-in for Ray: what is late counts for nothing, what is lost is said."""

from __future__ import annotations

import asyncio
import pickle
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agentrl.distributed.host import Outcome
from agentrl.distributed.ray_workers import RayWorker, RayWorkers, Stored
from agentrl.distributed.worker import Weights, WorkerLost
from agentrl.errors import RolloutError
from agentrl.rollout.requests import GroupRequest
from agentrl.trajectory import Task, TrajectoryGroup
from tests.distributed.test_host import SETUP

REQUEST = GroupRequest(Task("t"), 0, 3, group_id="g")


class RayError(Exception):
    """As Ray's."""


class Actor:
    """Each call is noted, and answered by a future that the test settles."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, asyncio.Future[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any) -> asyncio.Future[Any]:
            self.calls.append((name, given, asyncio.get_running_loop().create_future()))
            return self.calls[-1][2]

        return SimpleNamespace(remote=remote)

    def answer(self, name: str) -> asyncio.Future[Any]:
        """Of the newest call of a method."""
        return [call[2] for call in self.calls if call[0] == name][-1]


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    made = Actor()
    ray, exceptions = ModuleType("ray"), ModuleType("ray.exceptions")
    kind = SimpleNamespace(remote=lambda *given: made)
    ray.remote = lambda cls: SimpleNamespace(options=lambda **options: kind)  # type: ignore[attr-defined]
    ray.kill = lambda killed: made.calls.append(("kill", (), asyncio.get_running_loop().create_future()))  # type: ignore[attr-defined]
    exceptions.RayError = RayError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    return made


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (None, "Ray cannot be started on this machine: too slow.*leave out scale.engine"),
        ("auto", "'auto' cannot be joined"),
    ],
)
def test_a_ray_that_cannot_begin_says_what_to_do(
    address: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, ended = ModuleType("ray"), list[int]()

    def init(**options: Any) -> None:
        raise Exception("too slow.")  # as Ray does

    ray.init, ray.is_initialized, ray.shutdown = init, lambda: False, lambda: ended.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("agentrl.distributed.ray_workers.check_installed", lambda: None)
    scale: Any = SimpleNamespace(samplers=1)
    with pytest.raises(RolloutError, match=words):
        RayWorkers(None, "auto", [], 1, scale, address=address).open()  # type: ignore[arg-type]
    assert ended


async def started(actor: Actor, freed: list[int]) -> RayWorker:
    worker = RayWorker(0, SETUP, None, lambda: freed.append(1))
    begun = asyncio.ensure_future(worker.start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    actor.answer("start").set_result(None)
    await begun
    await asyncio.sleep(0)
    return worker


async def test_a_group_comes_back_and_weights_go_first(actor: Actor) -> None:
    freed: list[int] = []
    worker = await started(actor, freed)
    worker.take_weights(Weights(4, Stored("reference")))
    group = worker.play(REQUEST, 4, None)
    assert [name for name, _, _ in actor.calls if name in ("take_weights", "play")] == ["take_weights", "play"]
    assert worker.running == 3
    await asyncio.sleep(0)
    actor.answer("play").set_result(Outcome(pickle.dumps(TrajectoryGroup("g", [])), 2.5))
    assert (await group).group_id == "g"
    await asyncio.sleep(0)
    assert (worker.running, worker.cpu_s, freed) == (0, 2.5, [1])


async def test_a_late_answer_of_a_lost_actor_counts_for_nothing(actor: Actor) -> None:
    """Its node is said to be dead, and then the answer that was held back arrives."""
    worker = await started(actor, [])
    group = worker.play(REQUEST, 3, None)
    await asyncio.sleep(0)
    actor.answer("until_lost").set_exception(RayError("the node died"))
    with pytest.raises(WorkerLost, match="the node died"):
        await group
    assert worker.is_lost
    with pytest.raises(WorkerLost):
        await worker.until_lost()
    actor.answer("play").set_result(Outcome(pickle.dumps(TrajectoryGroup("g", [])), 9.0))
    await asyncio.sleep(0.01)
    assert isinstance(group.exception(), WorkerLost)
    calls = len(actor.calls)
    worker.take_weights(Weights(9, Stored("reference")))
    assert len(actor.calls) == calls
    await worker.aclose()
    assert actor.calls[-1][0] == "kill"


async def test_an_actor_that_cannot_take_weights_is_lost(actor: Actor) -> None:
    """Its groups would wait for them for ever."""
    worker = await started(actor, [])
    worker.take_weights(Weights(4, Stored("reference")))
    group = worker.play(REQUEST, 4, None)
    await asyncio.sleep(0)
    actor.answer("take_weights").set_exception(RayError("no memory"))
    with pytest.raises(WorkerLost, match="no memory"):
        await group
    assert worker.is_lost


async def test_an_actor_that_was_stopped_is_given_up_also_before_it_is_ready(actor: Actor) -> None:
    """Ray notices only those that have ended. One that waits for free CPUs has not begun, and is waited for."""
    setup = replace(SETUP, alive_s=0.01, silent_s=0.05)
    worker = RayWorker(0, setup, None, lambda: None)
    starting = asyncio.ensure_future(worker.start())
    await asyncio.sleep(0.2)
    assert not starting.done(), "it waits for CPUs"
    actor.answer("alive").set_result(None)
    with pytest.raises(WorkerLost, match=r"the actor of sampler 0 gave no sign of life for 0.05 s"):
        await starting
    assert worker.is_lost
    await worker.aclose()
    assert actor.calls[-1][0] == "kill"


async def test_a_cancelled_group_is_stopped_on_the_actor(actor: Actor) -> None:
    worker = await started(actor, [])
    group = worker.play(REQUEST, 3, None)
    await asyncio.sleep(0)
    group.cancel()
    await asyncio.sleep(0)
    assert actor.calls[-1][0] == "cancel"
    actor.answer("play").set_result(Outcome(pickle.dumps(TrajectoryGroup("g", [])), 1.0))
    await asyncio.sleep(0.01)
    assert group.cancelled()
