"""Workers in this process whose groups end after any number of turns of the event loop, and which can be lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

from agentrl.distributed.worker import Weights, Worker, WorkerLost
from agentrl.messages import Action
from agentrl.rollout.requests import GroupRequest
from agentrl.trajectory import EnvRef, Trajectory, TrajectoryGroup, Turn


class Nothing:
    """Weights without values."""

    closed = False

    def close(self) -> None:
        self.closed = True


class FakeWorker(Worker):
    """A group's first token is of the weights at its beginning, the last one of those at its end."""

    def __init__(self, owner: FakeWorkers, on_free: Callable[[], None]) -> None:
        self.owner, self.on_free, self.version = owner, on_free, owner.version
        self.playing: dict[asyncio.Task[TrajectoryGroup], int] = {}

    @property
    def running(self) -> int:
        return sum(self.playing.values())

    @property
    def groups(self) -> int:
        return len(self.playing)

    @property
    def is_lost(self) -> bool:
        return self.lost.done()

    async def start(self) -> None:
        await asyncio.sleep(0)
        if self.owner.broken is not None:
            raise self.owner.broken
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take_weights(self, weights: Weights) -> None:
        assert weights.version > self.version
        assert not weights.values.closed  # type: ignore[attr-defined]
        self.version = weights.version

    def play(self, request: GroupRequest, version: int, sampling: Any) -> asyncio.Future[TrajectoryGroup]:
        assert not self.is_lost
        assert version == self.version, "new weights come before the groups that are begun after them"
        group = asyncio.ensure_future(self._play(request))
        self.playing[group] = request.num_episodes
        group.add_done_callback(self._ended)
        self.owner.begun.append(request.group_id)
        return group

    def _ended(self, group: asyncio.Task[TrajectoryGroup]) -> None:
        del self.playing[group]
        self.on_free()

    async def _play(self, request: GroupRequest) -> TrajectoryGroup:
        first = self.version
        for _ in range(self.owner.duration(request)):
            await asyncio.sleep(0)
        if self.owner.loses(request):
            lost = WorkerLost("the worker was killed")
            if not self.lost.done():
                self.lost.set_exception(lost)
            raise lost
        action = Action("x", token_ids=(1, 2), logprobs=(0.0, 0.0), versions=(first, self.version))
        turns = [Turn((), action)]
        return TrajectoryGroup(request.group_id, [Trajectory(EnvRef("fake"), request.task, request.seed, turns)])

    async def until_lost(self) -> None:
        await asyncio.shield(self.lost)

    async def aclose(self) -> None:
        for group in list(self.playing):
            group.cancel()
        self.owner.closed += 1


class FakeWorkers:
    """Args: seed: of the durations; loss: how likely it is that a worker is lost while it plays a group."""

    def __init__(self, seed: int = 0, *, longest: int = 40, loss: float = 0.0) -> None:
        self.rng, self.longest, self.loss = random.Random(seed), longest, loss
        self.version, self.begun, self.made, self.closed = 0, list[str](), 0, 0
        self.broken: Exception | None = None
        self.always_lost = ""

    def duration(self, request: GroupRequest) -> int:
        if request.task.id == self.always_lost:
            return 5000  # the groups beside it end first: too many losses in a row would end them too
        return self.rng.randrange(self.longest)

    def loses(self, request: GroupRequest) -> bool:
        return request.task.id == self.always_lost or self.rng.random() < self.loss

    def open(self) -> None:
        pass

    def weights(self, version: int) -> Weights:
        return Weights(version, Nothing())  # type: ignore[arg-type]

    def worker(self, number: int, on_free: Callable[[], None]) -> FakeWorker:
        self.made += 1
        return FakeWorker(self, on_free)

    def close(self) -> None:
        pass


class FakePlayer:
    """The runner of the trainer's process; it is never asked to play."""

    policy: Any = None
    sampling = None

    def __init__(self, max_concurrency: int = 4) -> None:
        self.max_concurrency, self.checked = max_concurrency, list[str]()

    async def run(self, requests: Iterable[GroupRequest], *, judged: bool = True) -> list[TrajectoryGroup]:
        raise AssertionError("the samplers play")

    def check_faults(self, groups: Iterable[TrajectoryGroup]) -> None:
        self.checked += [group.group_id for group in groups]

    async def aclose(self) -> None:
        pass
