"""The trainer's side of its samplers: plays groups elsewhere, as `Rollouts` plays them here.

The pool has a thread with an event loop of its own, because that of the trainer stands still during an update, and the
samplers must get work then too.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from agentrl.distributed.pool import Pool
from agentrl.distributed.state import SamplingState
from agentrl.distributed.worker import Workers, shared_out
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.sources.base import gathered
from agentrl.rollout.sources.tasks import Player
from agentrl.trajectory import TrajectoryGroup


class Samplers:
    """Plays groups on workers. They start with the first group.

    Args:
        own: the runner of this process: it judges faults, and plays what must be played here.
        workers: where they come from.
        count: how many.
        restarts: as of `Pool`.
        version: of the trainer's weights.
    """

    def __init__(self, own: Player, workers: Workers, count: int, *, restarts: int, version: int) -> None:
        self._own, self._workers, self._count = own, workers, count
        slots = shared_out(own.max_concurrency, count)
        self._pool = Pool(workers, count, slots=slots, restarts=restarts)
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._admitted = itertools.count()
        self._version, self._pushed, self._open = version, version, 0

    @property
    def policy(self) -> Policy:
        """The policy of this process."""
        return self._own.policy

    @property
    def sampling(self) -> SamplingParams | None:
        return self._own.sampling

    @property
    def max_concurrency(self) -> int:
        return self._own.max_concurrency

    @property
    def metrics(self) -> dict[str, float]:
        """How many samplers there are, and how often one was started again."""
        return {"scale/samplers": float(self._count), "scale/restarts": float(self._pool.num_restarts)}

    def state(self, by: str, timeout_s: float = 1.0) -> SamplingState | None:
        """What is under way, asked from any thread but that of the pool.

        Args:
            by: what kind of workers they are.
            timeout_s: longest wait for the pool.
        Returns: None if the workers are not running, or the pool does not answer.
        """
        if self._thread is None:
            return None
        answer: Future[SamplingState] = Future()
        try:
            self._loop.call_soon_threadsafe(lambda: answer.set_result(self._pool.state(by)))
            return answer.result(timeout_s)
        except (TimeoutError, RuntimeError):  # it is busy, or has just been closed
            return None

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the samplers, as far as they have reported them."""
        return self._pool.cpu_s

    async def run(
        self,
        requests: Iterable[GroupRequest],
        *,
        judged: bool = True,
        sampling: SamplingParams | None = None,
        on_group: Callable[[TrajectoryGroup], None] = lambda group: None,
    ) -> list[TrajectoryGroup]:
        """As `Rollouts.run`; all of the requests are admitted at once.

        Args:
            sampling: of every turn; None is that of training episodes.
            on_group: called with each group, as it ends.
        """
        asked = list(requests)
        if not asked:
            return []
        self._start()
        self._push()
        self._open += len(asked)
        try:
            groups = await gathered([self._play(request, sampling, on_group) for request in asked])
        finally:
            self._open -= len(asked)
        if judged:
            self.check_faults(groups)
        return groups

    def check_faults(self, groups: Iterable[TrajectoryGroup]) -> None:
        """As `Rollouts.check_faults`."""
        self._own.check_faults(groups)

    def publish(self, version: int) -> None:
        """The model of this process has new weights: the samplers get them before the next group that is admitted."""
        self._version = version
        if self._open:
            self._push()

    def _push(self) -> None:
        """Give the samplers the newest weights, where they have older ones."""
        if self._pushed == self._version:
            return
        self._pushed = self._version
        self._loop.call_soon_threadsafe(self._pool.take_weights, self._workers.weights(self._version))

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._workers.open()
        self._pushed = self._version
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="samplers")
        self._loop.call_soon_threadsafe(self._pool.open, self._version)
        self._thread.start()

    async def _play(
        self, request: GroupRequest, sampling: SamplingParams | None, on_group: Callable[[TrajectoryGroup], None]
    ) -> TrajectoryGroup:
        group: TrajectoryGroup = await self._in_pool(self._pool.play(next(self._admitted), request, sampling))
        on_group(group)
        return group

    def _in_pool(self, what: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, self._loop))

    async def aclose(self) -> None:
        """Stop what is running, and end the samplers."""
        if self._thread is not None:
            await self._in_pool(self._pool.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._workers.close()
            self._thread = None
        self._loop.close()
        await self._own.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
