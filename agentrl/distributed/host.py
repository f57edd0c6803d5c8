"""What an actor of Ray holds: a sampling process on its machine, and the order in which weights and groups reach it."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.distributed.local import LocalWorker
from agentrl.distributed.messages import Setup
from agentrl.distributed.shared import Packed
from agentrl.distributed.worker import Weights
from agentrl.errors import RolloutError
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class Outcome:
    """A group as `pickle` writes it, and CPU seconds and memory of its sampling process so far."""

    written: bytes
    cpu_s: float
    memory_bytes: int = 0

    def group(self) -> TrajectoryGroup | Exception:
        """The group; an error if it cannot be read here."""
        try:
            group: TrajectoryGroup = pickle.loads(self.written)
        except Exception as error:  # author's objects can raise anything
            return RolloutError(f"episodes of a sampler cannot be read: {type(error).__name__}: {error}")
        return group


class Host:
    """Errors are answers: how those that are raised travel is left to nobody.

    Args:
        number: of the worker, for messages.
        setup: a `Setup`, as `pickle` writes it.
        model: bytes of model and tokenizer, as `packed_bytes` makes them.
        path: where the trainer looks for modules; what is not on this machine is left out.
    """

    def __init__(self, number: int, setup: bytes, model: bytes, path: Sequence[str]) -> None:
        sys.path += [place for place in path if place not in sys.path and os.path.exists(place)]
        made: Setup = pickle.loads(setup)
        self._model = Packed.of(model)
        self._worker = LocalWorker(number, made, self._model, lambda: None)
        self._version, self._newer = made.version, asyncio.Event()
        self._playing: dict[int, asyncio.Future[TrajectoryGroup]] = {}

    async def start(self) -> Exception | str:
        """Start the sampling process. Returns: what went wrong, or where it runs."""
        try:
            await self._worker.start()
        except Exception as error:  # the trainer raises it
            return error
        return f"{self._worker.place} on {socket.gethostname()}"

    async def take_weights(self, version: int, values: bytes) -> None:
        """Play with these from now on; older ones, which can come later, are left out."""
        if version <= self._version:
            return
        packed = Packed.of(values)
        self._worker.take_weights(Weights(version, packed))
        packed.close()
        self._version = version
        self._newer.set()
        self._newer = asyncio.Event()

    async def play(self, ticket: int, asked: bytes) -> Outcome | Exception:
        """Play a group once the weights are there that it was asked with. Returns: what went wrong, or the group."""
        request, version, sampling = pickle.loads(asked)
        while self._version < version:
            await self._newer.wait()
        try:
            self._playing[ticket] = self._worker.play(request, version, sampling)
            group = await self._playing[ticket]
            return Outcome(pickle.dumps(group), self._worker.cpu_s, self._worker.memory_bytes)
        except asyncio.CancelledError:
            return RolloutError("the group was cancelled")
        except Exception as error:  # the trainer raises it
            return error
        finally:
            self._playing.pop(ticket, None)

    async def alive(self) -> None:
        """Answers as long as the actor runs: Ray notices one that has ended, but not one that was stopped."""

    async def cancel(self, ticket: int) -> None:
        """Stop a group."""
        if ticket in self._playing:
            self._playing[ticket].cancel()

    async def until_lost(self) -> Exception:
        """Wait for the end of the sampling process. Returns: how it ended."""
        try:
            await self._worker.until_lost()
        except Exception as error:  # the trainer raises it
            return error
        raise AssertionError("a worker ends with an error")

    async def close(self) -> None:
        """End the sampling process."""
        await self._worker.aclose()
        self._model.close()
