"""Workers that are actors of Ray, on this machine or on others. Owns the connection to Ray, its actors and its objects.

Placement, transport and the detection of failures are Ray's. An actor holds one sampling process of its machine
(`agentrl.distributed.local`), with environments and sandboxes on the same machine; whole groups are sent, never steps.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import logging
import pickle
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentrl.distributed.host import Host, Outcome
from agentrl.distributed.local import LocalWorkers
from agentrl.distributed.messages import Setup
from agentrl.distributed.shared import packed_bytes
from agentrl.distributed.worker import Weights, Worker, WorkerLost
from agentrl.errors import ConfigError, RolloutError
from agentrl.rollout.requests import GroupRequest
from agentrl.sampling import SamplingParams
from agentrl.trajectory import TrajectoryGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentrl.distributed.local import Scale
    from agentrl.policy.local import LocalPolicy
    from agentrl.trajectory import EnvRef

logger = logging.getLogger(__name__)
_START_S, _STOP_S = 600.0, 20.0


def check_installed() -> None:
    """Raises: ConfigError if Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("scale.engine = 'ray' needs Ray: pip install 'agentrl[ray]'")


class Stored:
    """A value in Ray's object store; it is freed when nobody needs it."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def close(self) -> None:
        self.reference = None


class RayWorkers(LocalWorkers):
    """Sampling processes on the machines of a Ray cluster, for a policy of this process.

    Args:
        policy, chat_format, envs, max_concurrency, scale: as of `LocalWorkers`.
        address: of the cluster; `auto` is the one of this machine, None starts Ray on this machine alone.
    """

    def __init__(
        self,
        policy: LocalPolicy,
        chat_format: str,
        envs: Sequence[EnvRef],
        max_concurrency: int,
        scale: Scale,
        *,
        address: str | None = None,
    ) -> None:
        super().__init__(policy, chat_format, envs, max_concurrency, scale)
        self._address, self._started = address, False

    def open(self) -> None:
        check_installed()
        import ray  # an optional extra

        if not ray.is_initialized():
            self._begin(ray)
            self._started = True
        self._setup = self._make_setup()
        self._kept = Stored(ray.put(packed_bytes((self._policy.model, self._policy.tokenizer))))

    def _begin(self, ray: Any) -> None:
        """Start Ray, or join a cluster. Raises: RolloutError."""
        where = {"address": self._address} if self._address else {"include_dashboard": False}
        logger.info("%s Ray", "joining" if self._address else "starting")
        try:
            ray.init(**where, configure_logging=False)
        except Exception as error:  # Ray raises any class
            ray.shutdown()
            if self._address:
                told = (
                    f"the Ray cluster at {self._address!r} cannot be joined: {error}. See that it runs, and that this"
                )
                raise RolloutError(f"{told} process has its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)") from error
            raise RolloutError(
                f"Ray cannot be started on this machine: {error} Its processes have to be up within 30 s: begin again "
                "where fewer others are running, or leave out scale.engine, which needs no Ray"
            ) from error

    def weights(self, version: int) -> Weights:
        import ray  # an optional extra

        return Weights(version, Stored(ray.put(packed_bytes(self._trained()))))

    def worker(self, number: int, on_free: Callable[[], None]) -> RayWorker:
        return RayWorker(number, self._setup, self._kept.reference, on_free)

    def close(self) -> None:
        import ray  # an optional extra

        self._kept.close()
        if self._started:
            ray.shutdown()
            self._started = False


class RayWorker(Worker):
    """One actor.

    Args:
        number: of the worker, for messages.
        setup: how it samples.
        model: reference of the bytes of model and tokenizer.
        on_free: called when a group has ended.
    """

    def __init__(self, number: int, setup: Setup, model: Any, on_free: Callable[[], None]) -> None:
        self._number, self._setup, self._model, self._on_free = number, setup, model, on_free
        self._tickets = itertools.count()
        self._open: dict[asyncio.Future[TrajectoryGroup], int] = {}
        self._memory_bytes = 0
        self._actor: Any = None
        self._lost: asyncio.Future[None] | None = None
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        return sum(self._open.values())

    @property
    def groups(self) -> int:
        return len(self._open)

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    @property
    def is_lost(self) -> bool:
        return self._lost is None or self._lost.done()

    async def start(self) -> None:
        import ray  # an optional extra

        self._lost = asyncio.get_running_loop().create_future()
        self._lost.add_done_callback(lambda lost: lost.exception())  # nobody may be waiting
        options = {"num_cpus": self._setup.threads, "max_restarts": 0, "max_concurrency": 1000}
        kind = ray.remote(Host).options(**options)
        self._actor = kind.remote(self._number, pickle.dumps(self._setup), self._model, sys.path)
        self._later(self._ask_again_and_again())
        starting = asyncio.ensure_future(self._answer(self._actor.start.remote()))
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.wait([starting, self._lost], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise WorkerLost(
                f"sampler {self._number} was not ready after {_START_S:g} s; it needs {self._setup.threads} free CPUs"
            ) from None
        finally:
            starting.cancel()
        outcome = self._lost.exception() if self._lost.done() else starting.result()
        if isinstance(outcome, Exception):
            raise outcome
        self.place = f"actor, {outcome}"
        self._later(self._watch())

    async def _ask_again_and_again(self) -> None:
        """Give up an actor that answers no longer, once it runs. Until then it may wait for free CPUs.

        Time in which the trainer itself stood still counts once at most.
        """
        await self._answer(self._actor.alive.remote())
        every_s, longest_s = self._setup.alive_s, self._setup.silent_s
        while not self.is_lost:
            asked, silent_s = asyncio.ensure_future(self._answer(self._actor.alive.remote())), 0.0
            try:
                while not asked.done() and silent_s <= longest_s:
                    await asyncio.wait([asked], timeout=every_s)
                    silent_s += every_s
                is_silent = not asked.done()
            finally:
                asked.cancel()
            if is_silent:
                self._end(WorkerLost(f"the actor of sampler {self._number} gave no sign of life for {longest_s:g} s"))
                return
            await asyncio.sleep(every_s)

    async def _watch(self) -> None:
        outcome = await self._answer(self._actor.until_lost.remote())
        self._end(outcome if isinstance(outcome, Exception) else WorkerLost(f"sampler {self._number} has ended"))

    def take_weights(self, weights: Weights) -> None:
        assert isinstance(weights.values, Stored)
        if not self.is_lost:
            self._later(self._take(self._actor.take_weights.remote(weights.version, weights.values.reference)))

    async def _take(self, asked: Any) -> None:
        """Wait until an actor has its weights. One that cannot take them is lost: its groups would wait for ever."""
        outcome = await self._answer(asked)
        if isinstance(outcome, Exception):
            self._end(outcome)

    def play(
        self, request: GroupRequest, version: int, sampling: SamplingParams | None
    ) -> asyncio.Future[TrajectoryGroup]:
        ticket, group = next(self._tickets), asyncio.get_running_loop().create_future()
        asked = self._actor.play.remote(ticket, pickle.dumps((request, version, sampling)))
        self._open[group] = request.num_episodes
        group.add_done_callback(lambda done: self._closed(ticket, done))
        self._later(self._settle(group, asked))
        return group

    async def _settle(self, group: asyncio.Future[TrajectoryGroup], asked: Awaitable[Outcome]) -> None:
        outcome = await self._answer(asked)
        if not isinstance(outcome, Exception):
            self.cpu_s = max(self.cpu_s, outcome.cpu_s)
            self._memory_bytes = outcome.memory_bytes
            outcome = outcome.group()
        if group.done():  # cancelled, or its worker was given up: a late answer counts for nothing
            return
        if isinstance(outcome, Exception):
            group.set_exception(outcome)
        else:
            group.set_result(outcome)

    def _closed(self, ticket: int, group: asyncio.Future[TrajectoryGroup]) -> None:
        del self._open[group]
        if group.cancelled() and not self.is_lost:
            self._actor.cancel.remote(ticket)
        self._on_free()

    async def _answer(self, asked: Any) -> Any:
        """What an actor answers; WorkerLost where it, or its machine, is gone."""
        from ray.exceptions import RayError  # an optional extra

        try:
            return await asked
        except RayError as error:
            said = str(error).strip().splitlines()
            return WorkerLost(f"sampler {self._number} is gone: {said[0] if said else type(error).__name__}")

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _end(self, why: Exception) -> None:
        assert self._lost is not None
        futures: list[asyncio.Future[Any]] = [self._lost, *self._open]
        for future in futures:
            if not future.done():
                future.set_exception(why)

    async def until_lost(self) -> None:
        assert self._lost is not None
        await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        if self._actor is None:
            return
        import ray  # an optional extra

        if not self.is_lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await self._answer(self._actor.close.remote())
            self._end(WorkerLost(f"sampler {self._number} was stopped"))
        ray.kill(self._actor)
        for task in list(self._waiting):
            task.cancel()
