"""Agents as commands, started for each episode. Owns their processes.

An agent's program is the user's own code and runs as the user, outside of any sandbox.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

from agentrl.errors import EnvFault
from agentrl.serving.capture.settings import AgentConfig

_TAIL_BYTES, _READ_BYTES, _READS = 2000, 1 << 16, 100
_END_S = 5.0
_REAPER = Path(__file__).with_name("reaper.py")
T = TypeVar("T")


@dataclass(frozen=True)
class Exit:
    """How an agent ended.

    Attributes:
        status: exit status; None where it was stopped for taking too long.
        tail: the end of what it printed.
    """

    status: int | None
    tail: str = ""

    def __str__(self) -> str:
        how = "was stopped for taking too long" if self.status is None else f"ended with exit status {self.status}"
        return f"the agent {how}{': ' + self.tail if self.tail else ''}"


class Agent(Protocol):
    """Something that plays episodes with a session. `name` stands in the records."""

    @property
    def name(self) -> str: ...

    async def run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        """Play one episode.

        Args:
            variables: of the environment, which say where to ask.
            waited_s: seconds so far in which the agent waited for the model; they do not count against it.
        Raises: EnvFault.
        """


class CommandAgent:
    """A shell command that is started for each episode.

    Args: settings: of the agent.
    """

    def __init__(self, settings: AgentConfig) -> None:
        self._settings, self.name = settings, settings.command
        self._places = asyncio.Semaphore(settings.at_once)

    async def run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        async with self._places:
            return await self._run(variables, waited_s)

    async def _run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        with Tail() as output:
            process = await started(self._settings.command, {**os.environ, **variables}, output)
            waiting = asyncio.ensure_future(process.wait())
            try:
                status = await within(waiting, self._settings.timeout_s, waited_s)
            finally:
                await ended(process)
                await waiting
            return Exit(status, output.text)


class Tail:
    """The end of what is written to a pipe; what was before it is let go. A context manager, in an event loop.

    Attributes:
        writer: descriptor of the pipe's end that is written to.
    """

    def __enter__(self) -> Self:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._kept, self._loop = b"", asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._take)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._loop.remove_reader(self._reader)
        self._close_writer()
        os.close(self._reader)

    @property
    def text(self) -> str:
        """The end of what has been written so far."""
        for _ in range(_READS):  # a process that has left its group may go on writing
            if not self._take():
                break
        return self._kept.decode(errors="replace").strip()

    def given(self) -> None:
        """Another process has the writer now: this one closes its own."""
        self._close_writer()

    def _close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def _take(self) -> bool:
        """Read what is there. Returns: whether there was something."""
        try:
            more = os.read(self._reader, _READ_BYTES)
        except BlockingIOError:
            return False
        if not more:
            self._loop.remove_reader(self._reader)
        self._kept = (self._kept + more)[-_TAIL_BYTES:]
        return bool(more)


async def within(result: asyncio.Future[T], timeout_s: float, waited_s: Callable[[], float]) -> T | None:
    """The result; None if it took longer, without the seconds in which the agent waited for the model."""
    began = time.monotonic()
    while not result.done() and (left_s := timeout_s + waited_s() - (time.monotonic() - began)) > 0:
        await asyncio.wait({result}, timeout=left_s)
    return result.result() if result.done() else None


async def started(command: str, variables: Mapping[str, str], output: Tail) -> asyncio.subprocess.Process:
    """A shell command without input, under a process that ends all of it (`reaper`). Raises: EnvFault."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _REAPER, command),
            env=variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=output.writer,
            stderr=output.writer,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise EnvFault(f"the agent cannot be started: {error}", who="host") from error
    output.given()
    return process


async def ended(process: asyncio.subprocess.Process) -> None:
    """End a process of `started` and all that it started."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
