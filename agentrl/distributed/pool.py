"""Groups for workers, in the order in which they were admitted. Owns the replacement of workers that are lost.

A group that was being played on a lost worker begins again on another one; nothing of the lost attempt is used.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from dataclasses import dataclass, field

from agentrl.distributed.state import Condition, SamplingState, WorkerState
from agentrl.distributed.worker import Weights, Worker, WorkerLost, Workers
from agentrl.errors import RolloutError
from agentrl.rollout.requests import GroupRequest
from agentrl.sampling import SamplingParams
from agentrl.trajectory import TrajectoryGroup

logger = logging.getLogger(__name__)


@dataclass(order=True)
class _Attempt:
    """A group that waits for a worker, or is being played.

    Attributes:
        number: of its admission; the smallest goes first.
        sampling: of every turn; None is that of training episodes.
        group: the outcome.
        playing: the worker's own future, once it has begun.
    """

    number: int
    request: GroupRequest = field(compare=False)
    sampling: SamplingParams | None = field(compare=False)
    group: asyncio.Future[TrajectoryGroup] = field(compare=False)
    playing: asyncio.Future[TrajectoryGroup] | None = field(default=None, compare=False)

    def begin(self, worker: Worker, version: int) -> None:
        try:
            self.playing = worker.play(self.request, version, self.sampling)
        except Exception as error:  # an author's object that cannot be sent can raise anything
            self.group.set_exception(error)
        else:
            self.playing.add_done_callback(self._end)

    def _end(self, playing: asyncio.Future[TrajectoryGroup]) -> None:
        if self.group.done():
            return
        error = WorkerLost("its worker was closed") if playing.cancelled() else playing.exception()
        if error is None:
            self.group.set_result(playing.result())
        else:
            self.group.set_exception(error)


class Pool:
    """Workers of one kind. All of it happens in one event loop.

    Args:
        workers: where they come from; opened and closed by the caller.
        count: how many.
        slots: episodes under way on each; a group may begin where fewer are.
        restarts: most times that one group is begun again, and most workers lost in a row without a group played.
    Attributes:
        num_restarts: workers that were started in place of lost ones.
    """

    def __init__(self, workers: Workers, count: int, *, slots: int, restarts: int) -> None:
        self._workers, self._count, self._slots, self._most_lost = workers, count, slots, restarts
        self._waiting: list[_Attempt] = []
        self._ready: list[Worker] = []
        self._workers_now: dict[int, Worker] = {}
        self._weights: Weights | None = None
        self._version = 0
        self._error: Exception | None = None
        self._lost_in_a_row, self.num_restarts, self._last_loss = 0, 0, ""
        self._cpu_s_of_lost = 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all workers, those of lost ones included."""
        return self._cpu_s_of_lost + sum(worker.cpu_s for worker in self._ready)

    def state(self, by: str) -> SamplingState:
        """What is under way. Args: by: what kind of workers they are."""
        workers = tuple(self._state_of(number, worker) for number, worker in sorted(self._workers_now.items()))
        return SamplingState(
            by=by,
            episodes=sum(worker.episodes for worker in workers),
            groups=sum(worker.groups for worker in workers),
            waiting=sum(not attempt.group.done() for attempt in self._waiting),
            restarts=self.num_restarts,
            last_loss=self._last_loss,
            workers=workers,
        )

    def _state_of(self, number: int, worker: Worker) -> WorkerState:
        ready = worker in self._ready
        condition: Condition = "starting" if not ready else "lost" if worker.is_lost else "ready"
        left = worker.running if ready else 0
        return WorkerState(
            number, worker.place, condition, worker.groups, left, round(worker.cpu_s, 3), worker.memory_bytes
        )

    def open(self, version: int) -> None:
        """Start the workers. Args: version: of the weights with which they start."""
        self._version = version
        self._tending = [asyncio.ensure_future(self._tend(number)) for number in range(self._count)]

    async def play(self, number: int, request: GroupRequest, sampling: SamplingParams | None = None) -> TrajectoryGroup:
        """Play a group, and again as often as its worker is lost.

        Args:
            number: of its admission.
            sampling: of every turn; None is that of training episodes.
        Raises: RolloutError if workers are lost again and again; what playing it raises.
        """
        for _ in range(self._most_lost + 1):
            if self._error is not None:
                raise self._error
            attempt = _Attempt(number, request, sampling, asyncio.get_running_loop().create_future())
            heapq.heappush(self._waiting, attempt)
            self._give_work()
            try:
                group = await attempt.group
                self._lost_in_a_row = 0
                return group
            except WorkerLost as error:
                lost = error
            finally:
                attempt.group.cancel()
                if attempt.playing is not None:
                    attempt.playing.cancel()
        raise RolloutError(
            f"{self._most_lost + 1} samplers ended while they played group {request.group_id!r} of task "
            f"{request.task.id!r}; the last: {lost}. Look for what ends them (memory, a crash of a tool's library), or "
            "raise scale.restarts"
        )

    def take_weights(self, weights: Weights) -> None:
        """Give new weights to all workers, before anything that is played from now on."""
        before, self._weights, self._version = self._weights, weights, weights.version
        for worker in self._ready:
            worker.take_weights(weights)
        if before is not None:
            before.values.close()

    async def aclose(self) -> None:
        """Stop what is running, and end the workers."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        self._break(RolloutError("the samplers were closed while episodes were running"))
        if self._weights is not None:
            self._weights.values.close()

    def _give_work(self) -> None:
        """Begin waiting groups, oldest first, on the workers with the fewest episodes."""
        while self._waiting:
            free = [worker for worker in self._ready if not worker.is_lost and worker.running < self._slots]
            if not free:
                return
            worker = min(free, key=lambda worker: worker.running)
            attempt = heapq.heappop(self._waiting)
            if not attempt.group.done():
                attempt.begin(worker, self._version)

    async def _tend(self, number: int) -> None:
        """Keep one worker at work, and start another where it is lost."""
        while self._error is None:
            worker = self._workers_now[number] = self._workers.worker(number, self._give_work)
            try:
                await worker.start()
                if self._weights is not None:
                    worker.take_weights(self._weights)
                self._ready.append(worker)
                self._give_work()
                await worker.until_lost()
            except WorkerLost as lost:
                self._note_loss(lost)
            except Exception as error:  # another worker would end in the same way
                self._break(error)
            finally:
                if worker in self._ready:
                    self._ready.remove(worker)
                self._cpu_s_of_lost += worker.cpu_s
                await worker.aclose()

    def _note_loss(self, lost: WorkerLost) -> None:
        self._lost_in_a_row, self._last_loss = self._lost_in_a_row + 1, str(lost)
        if self._lost_in_a_row > self._most_lost:
            self._break(
                RolloutError(
                    f"{self._lost_in_a_row} samplers ended one after the other before they had played a group; the "
                    f"last: {lost}. What they wrote stands above. Look for what ends them, such as too little memory, "
                    "or raise scale.restarts"
                )
            )
            return
        self.num_restarts += 1
        logger.warning("%s; its groups begin again on another", lost)

    def _break(self, error: Exception) -> None:
        """End every group that waits; those that are being played end with their worker."""
        self._error = self._error or error
        waiting, self._waiting = self._waiting, []
        for attempt in waiting:
            if not attempt.group.done():
                attempt.group.set_exception(self._error)
