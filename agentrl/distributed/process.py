"""A sampling process: plays the groups that the trainer asks for. Writes no file and keeps nothing between groups.

It ends when the trainer ends, however that happens.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import logging
import os
import pickle
import threading
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from agentrl.distributed.child import LogToTrainer, ToTrainer, portable
from agentrl.distributed.messages import (
    Broken,
    Cancel,
    EpisodeEnded,
    Failed,
    NewWeights,
    Play,
    Played,
    Ready,
    Setup,
    Stop,
)
from agentrl.distributed.shared import receive_descriptor, unpacked
from agentrl.env.watchdog import end_when_hung
from agentrl.errors import EnvFault, RolloutError
from agentrl.policy.local import LocalPolicy
from agentrl.registry import load_file
from agentrl.rollout.plain_json import as_json
from agentrl.rollout.runner import Rollouts
from agentrl.sampling import SamplingParams
from agentrl.trajectory import Trajectory, TrajectoryGroup

_GRACE_S = 10.0
"""Seconds that a process may take to close its environments once the trainer is gone."""
_ticket: contextvars.ContextVar[int] = contextvars.ContextVar("ticket", default=-1)


class Sampler:
    """Plays what the trainer asks for, until it says stop.

    Args:
        connection: to the trainer.
        trainer: the same, to send.
        setup: how to sample.
    """

    def __init__(self, connection: Connection, trainer: ToTrainer, setup: Setup) -> None:
        self._connection, self._trainer, self._setup = connection, trainer, setup
        self._playing: dict[int, asyncio.Task[None]] = {}
        self._runners: dict[SamplingParams, Rollouts] = {}

    async def serve(self, model: Any, tokenizer: Any) -> None:
        """Play until told to stop."""
        self._stopped, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._policy = _policy(model, tokenizer, self._setup)
        async with self._policy, AsyncExitStack() as self._opened:
            threading.Thread(target=self._read, daemon=True, name="trainer").start()
            self._trainer.send(Ready())
            await self._stopped.wait()
            for task in self._playing.values():
                task.cancel()
            await asyncio.gather(*self._playing.values(), return_exceptions=True)

    async def _runner(self, sampling: SamplingParams | None) -> Rollouts:
        """The runner of a way to sample."""
        sampling = sampling or self._setup.sampling
        if sampling not in self._runners:
            limit = self._setup.max_concurrency
            runner = Rollouts(
                self._setup.env, self._policy, sampling=sampling, max_concurrency=limit, on_trajectory=self._ended
            )
            self._runners[sampling] = await self._opened.enter_async_context(runner)
        return self._runners[sampling]

    def _read(self) -> None:
        """Hand messages to the event loop, in their order; a thread of its own, so that the trainer never waits."""
        try:
            while True:
                message = self._connection.recv()
                weights = receive_descriptor(self._connection) if isinstance(message, NewWeights) else -1
                self._loop.call_soon_threadsafe(self._take, message, weights)
        except (EOFError, OSError):
            with suppress(RuntimeError):  # the event loop is closed already
                self._loop.call_soon_threadsafe(self._stopped.set)
            time.sleep(_GRACE_S)
        except Exception as error:  # an author's object that cannot be made here can raise anything
            self._trainer.send(Broken(portable(error)))
        os._exit(1)  # the event loop may be blocked

    def _take(self, message: Any, weights: int) -> None:
        if isinstance(message, Play):
            context = contextvars.copy_context()
            context.run(_ticket.set, message.ticket)
            self._playing[message.ticket] = self._loop.create_task(self._play(message), context=context)
        elif isinstance(message, NewWeights):
            self._take_weights(message.version, weights)
        elif isinstance(message, Cancel):
            if message.ticket in self._playing:
                self._playing[message.ticket].cancel()
        elif isinstance(message, Stop):
            self._stopped.set()

    def _take_weights(self, version: int, descriptor: int) -> None:
        try:
            values = unpacked(descriptor)
        finally:
            os.close(descriptor)
        parameters = dict(self._policy.model.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)
        self._policy.weights_changed(drop_cache=not self._setup.keep_cache, version=version)

    def _ended(self, trajectory: Trajectory) -> None:
        self._trainer.send(EpisodeEnded(_ticket.get()))

    async def _play(self, message: Play) -> None:
        ticket, version = message.ticket, self._policy.version
        try:
            if version < message.version:
                raise RolloutError(f"a sampler has weights {version}, expected {message.version} or newer")
            runner = await self._runner(message.sampling)
            (group,) = await runner.run([message.request], judged=False)
            self._trainer.send(Played(ticket, packed_group(group), time.process_time()))
        except Exception as error:  # the trainer raises it
            self._trainer.send(Failed(ticket, portable(error)))
        finally:
            del self._playing[ticket]
            if not self._playing:
                self._policy.forget()  # what the next group samples is as from a new policy


def packed_group(group: TrajectoryGroup) -> bytes:
    """A group as `pickle` writes it; where an environment's `info` holds what cannot be pickled, as its JSON form."""
    try:
        return pickle.dumps(group)
    except Exception:  # author's objects can raise anything
        plain = [replace(trajectory, info=as_json(trajectory.info)) for trajectory in group.trajectories]
        return pickle.dumps(replace(group, trajectories=plain))


def _policy(model: Any, tokenizer: Any, setup: Setup) -> LocalPolicy:
    return LocalPolicy(
        model,
        tokenizer,
        chat_format=setup.chat_format,
        sampling=setup.sampling,
        slots=setup.slots,
        max_context=setup.max_context,
        version=setup.version,
        exact=setup.exact,
    )


def main(connection: Connection, trainer: ToTrainer, model: int) -> None:
    """Run a sampling process.

    Args:
        connection: to the trainer.
        trainer: the same, to send.
        model: descriptor of the memory that holds model and tokenizer.
    """
    try:
        setup: Setup = connection.recv()
        _prepare(setup, trainer)
        made = unpacked(model, only_tensors=False)
        os.close(model)
        asyncio.run(Sampler(connection, trainer, setup).serve(*made))
    except EOFError:
        return
    except SystemExit as error:
        told = EnvFault(f"code of the run called sys.exit({error.code!r}): let it raise an exception", who="author")
        trainer.send(Broken(told))
    except Exception as error:  # the trainer raises it
        trainer.send(Broken(portable(error)))


def _prepare(setup: Setup, trainer: ToTrainer) -> None:
    logging.basicConfig(level=setup.log_level, handlers=[LogToTrainer(trainer)])
    torch.set_num_threads(setup.threads)
    if setup.ends_when_hung:
        end_when_hung(lambda message: trainer.send(Broken(EnvFault(message, who="author"))))
    for module in setup.modules:
        if module.endswith(".py"):
            load_file(Path(module))
        else:
            importlib.import_module(module)
