"""Workers that are processes of this machine. Owns their start, their end, and what is said to them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from agentrl.distributed.child import killed, start_child
from agentrl.distributed.line import Line
from agentrl.distributed.messages import (
    Alive,
    Broken,
    Cancel,
    EpisodeEnded,
    Failed,
    Logged,
    NewWeights,
    Play,
    Played,
    Ready,
    Setup,
    Stop,
)
from agentrl.distributed.shared import Packed
from agentrl.distributed.state import resident_bytes
from agentrl.distributed.worker import Weights, Worker, WorkerLost, shared_out
from agentrl.env.registry import modules_of
from agentrl.env.watchdog import ends_when_hung
from agentrl.errors import RolloutError
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.sampling import SamplingParams
from agentrl.trajectory import EnvRef, TrajectoryGroup

_START_S, _STOP_S = 600.0, 15.0
_PROCESS = "agentrl.distributed.process"
_ALIVE_S, _SILENT_S = 5.0, 120.0
"""Seconds between two signs of life, and longest time without any: a stopped process is lost."""


class Scale(Protocol):
    """The settings of `[scale]` that processes read."""

    @property
    def samplers(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def cache(self) -> str: ...


class LocalWorkers:
    """Sampling processes for a policy of this process.

    Args:
        policy: its model's weights may change at any time.
        chat_format: as the policy was made with.
        envs: that are played; requests that name none play the first.
        max_concurrency: episodes under way on all of them together.
        scale: how many, and how they sample.
    """

    def __init__(
        self, policy: LocalPolicy, chat_format: str, envs: Sequence[EnvRef], max_concurrency: int, scale: Scale
    ) -> None:
        self._policy, self._scale = policy, scale
        self._chat_format, self._envs, self._max_concurrency = chat_format, envs, max_concurrency

    def open(self) -> None:
        self._setup = self._make_setup()
        self._packed = Packed((self._policy.model, self._policy.tokenizer))

    def _make_setup(self) -> Setup:
        policy, count = self._policy, self._scale.samplers
        return Setup(
            env=self._envs[0],
            modules=modules_of(ref.id for ref in self._envs),
            sampling=policy.sampling,
            chat_format=self._chat_format,
            slots=shared_out(policy.engine.options.slots, count),
            max_context=policy.engine.options.context,
            exact=policy.exact,
            max_concurrency=shared_out(self._max_concurrency, count),
            version=policy.version,
            keep_cache=self._scale.cache == "keep",
            threads=self._scale.threads,
            log_level=logging.getLogger().getEffectiveLevel(),
            ends_when_hung=ends_when_hung(),
            alive_s=_ALIVE_S,
            silent_s=_SILENT_S,
        )

    def weights(self, version: int) -> Weights:
        return Weights(version, Packed(self._trained()))

    def _trained(self) -> dict[str, Any]:
        """The parameters that train, by name."""
        return {name: p.detach() for name, p in self._policy.model.named_parameters() if p.requires_grad}

    def worker(self, number: int, on_free: Callable[[], None]) -> Worker:
        return LocalWorker(number, self._setup, self._packed, on_free)

    def close(self) -> None:
        self._packed.close()


class LocalWorker(Worker):
    """One sampling process.

    Args:
        number: of the worker, for messages.
        setup: how it samples.
        model: model and tokenizer.
        on_free: called when an episode has ended.
    """

    def __init__(self, number: int, setup: Setup, model: Packed, on_free: Callable[[], None]) -> None:
        self._number, self._setup, self._model, self._on_free = number, setup, model, on_free
        self._tickets = itertools.count()
        self._open: dict[int, tuple[asyncio.Future[TrajectoryGroup], int]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Line | None = None
        self._silent = 0

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> int:
        return sum(left for _, left in self._open.values())

    @property
    def groups(self) -> int:
        return len(self._open)

    @property
    def memory_bytes(self) -> int:
        return 0 if self._process is None else resident_bytes(self._process.pid)

    @property
    def is_lost(self) -> bool:
        return self._line is None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        self._lost.add_done_callback(lambda lost: lost.exception())  # nobody may be waiting
        self._process, connection = start_child(_PROCESS, self._model.fileno(), self._setup.alive_s)
        self._line = Line(connection, self._hear, self._end)
        self.place = f"process {self.pid}"
        self._send(self._setup)
        self._silent = 0
        self._watch()
        try:
            async with asyncio.timeout(_START_S):
                await self._ready
        except TimeoutError:
            raise WorkerLost(f"sampler {self._number} was not ready after {_START_S:g} s") from None

    def _watch(self) -> None:
        """Count the missing signs of life. Time in which the trainer itself stood still counts once at most."""
        if self._line is None:
            return
        if self._silent * self._setup.alive_s > self._setup.silent_s:
            what = f"sampler {self._number} (process {self.pid}) gave no sign of life for {self._setup.silent_s:g} s"
            self._end(WorkerLost(f"{what} (stopped, or code that never lets go of Python's lock), and was killed"))
            return
        self._silent += 1
        asyncio.get_running_loop().call_later(self._setup.alive_s, self._watch)

    def take_weights(self, weights: Weights) -> None:
        assert isinstance(weights.values, Packed)
        self._send(NewWeights(weights.version), weights.values.fileno())

    def play(
        self, request: GroupRequest, version: int, sampling: SamplingParams | None
    ) -> asyncio.Future[TrajectoryGroup]:
        ticket = next(self._tickets)
        self._send(Play(ticket, request, version, sampling))
        group: asyncio.Future[TrajectoryGroup] = asyncio.get_running_loop().create_future()
        self._open[ticket] = group, request.num_episodes
        group.add_done_callback(lambda done: self._closed(ticket, done))
        return group

    def _closed(self, ticket: int, group: asyncio.Future[TrajectoryGroup]) -> None:
        del self._open[ticket]
        if group.cancelled():
            self._send(Cancel(ticket))
        self._on_free()

    def _send(self, message: Any, descriptor: int | None = None) -> None:
        if self._line is not None:
            self._line.send(message, descriptor)

    def _hear(self, message: Any) -> None:
        self._silent = 0
        if isinstance(message, EpisodeEnded):
            self._count(message.ticket)
        elif isinstance(message, Alive):
            self.cpu_s = message.cpu_s
        elif isinstance(message, Played):
            self.cpu_s = message.cpu_s
            self._settle(message.ticket, message.group)
        elif isinstance(message, Failed):
            self._settle(message.ticket, message.error)
        elif isinstance(message, Logged):
            logging.getLogger(message.name).log(message.level, message.text, *message.values)
        elif isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(message, Broken):
            self._end(message.error)

    def _count(self, ticket: int) -> None:
        if ticket in self._open:
            group, left = self._open[ticket]
            self._open[ticket] = group, left - 1
            self._on_free()

    def _settle(self, ticket: int, outcome: bytes | Exception) -> None:
        """The end of a group; that of a group which was cancelled is dropped."""
        group, _ = self._open.get(ticket, (None, 0))
        if group is None or group.done():
            return
        if isinstance(outcome, Exception):
            group.set_exception(outcome)
            return
        try:
            group.set_result(pickle.loads(outcome))
        except Exception as error:  # author's objects can raise anything
            group.set_exception(RolloutError(f"episodes of a sampler cannot be read: {type(error).__name__}: {error}"))

    def _end(self, error: Exception | None = None) -> None:
        """The process has ended, or has said why it will: everything that it was playing is lost."""
        if self._line is None:
            return
        self._line.close()
        self._line = None
        assert self._process is not None
        why = error or WorkerLost(f"sampler {self._number} (process {self.pid}) {killed(self._process)}")
        futures: list[asyncio.Future[Any]] = [self._ready, self._lost, *(group for group, _ in self._open.values())]
        for future in futures:
            if not future.done():
                future.set_exception(why)

    async def until_lost(self) -> None:
        await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        if self._process is None:
            return
        if self._ready.done():  # else there is nothing to close
            self._send(Stop())
            with suppress(Exception):
                async with asyncio.timeout(_STOP_S):
                    await self.until_lost()
        self._process.kill()
        self._end(WorkerLost(f"sampler {self._number} was stopped"))
        self._process.wait()
