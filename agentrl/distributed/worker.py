"""The contract of workers: they play groups with the weights that they were given, and hold no state that matters.

A worker may be lost at any time. What it was playing is then played again elsewhere, under a new attempt.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentrl.rollout.requests import GroupRequest
from agentrl.sampling import SamplingParams
from agentrl.trajectory import TrajectoryGroup


class WorkerLost(Exception):
    """A worker ended without being asked to."""


class Values(Protocol):
    """Parameter name -> values, of those that train, where a kind of worker can take them."""

    def close(self) -> None:
        """No worker takes them any more."""


@dataclass(frozen=True)
class Weights:
    """Weights of the model.

    Attributes:
        version: their number; it grows with each update.
        values: as the workers that they are for take them.
    """

    version: int
    values: Values


class Worker(ABC):
    """Plays groups. All methods are called in the event loop of the pool, which is not the trainer's."""

    cpu_s: float = 0.0
    """CPU seconds that it has spent, as last reported."""
    place: str = ""
    """What it is and where it runs, once it has started."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Episodes that it was given and that have not ended."""

    @property
    @abstractmethod
    def groups(self) -> int:
        """Groups that it is playing."""

    @property
    def memory_bytes(self) -> int:
        """Resident memory of its sampling process; 0 if unknown."""
        return 0

    @property
    @abstractmethod
    def is_lost(self) -> bool:
        """Whether it has ended; it can play nothing then."""

    @abstractmethod
    async def start(self) -> None:
        """Get ready to play. Raises: WorkerLost; any error of the set-up, which another try would repeat."""

    @abstractmethod
    def take_weights(self, weights: Weights) -> None:
        """Play with these weights from now on; turns being sampled go on with them."""

    @abstractmethod
    def play(
        self, request: GroupRequest, version: int, sampling: SamplingParams | None
    ) -> asyncio.Future[TrajectoryGroup]:
        """Begin a group. Cancelling the future stops it.

        Args:
            version: of the weights that it was given last: no token may be of an older one.
            sampling: of every turn; None is that of training episodes.
        Returns: the whole group; WorkerLost if the worker is lost first.
        """

    @abstractmethod
    async def until_lost(self) -> None:
        """Wait for its end. Raises: WorkerLost; an error that ended it, which another try would repeat."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop what is running, and end it."""


class Workers(Protocol):
    """Where workers come from: processes of this machine (`agentrl.distributed.local`), or those of others."""

    def open(self) -> None:
        """Take what a worker needs from the trainer; called in the trainer's thread, before the first `worker`."""

    def weights(self, version: int) -> Weights:
        """The trainer's weights as they are now; called in the trainer's thread."""
        ...

    def worker(self, number: int, on_free: Callable[[], None]) -> Worker:
        """A worker that has not started.

        Args:
            number: of the worker, from 0.
            on_free: called when an episode has ended.
        """
        ...

    def close(self) -> None:
        """Free what `open` took."""


def shared_out(total: int, count: int) -> int:
    """The share of each of `count` workers in a total, rounded up."""
    return -(-total // count)
