"""Agents as commands, started for each episode. Owns their processes.

An agent's program is the user's own code and runs as the user, outside of any sandbox.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

from agentrl.serving.capture.settings import AgentConfig

_TAIL_BYTES = 2000
_END_S = 5.0


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

    async def run(self, variables: Mapping[str, str]) -> Exit:
        """Play one episode. Args: variables: of the environment, which say where to ask. Raises: EnvFault."""


class CommandAgent:
    """A shell command that is started for each episode.

    Args: settings: of the agent.
    """

    def __init__(self, settings: AgentConfig) -> None:
        self._settings, self.name = settings, settings.command

    async def run(self, variables: Mapping[str, str]) -> Exit:
        with tempfile.TemporaryFile() as output:
            process = await started(self._settings.command, {**os.environ, **variables}, output)
            status: int | None = None
            try:
                status = await asyncio.wait_for(process.wait(), self._settings.timeout_s)
            except TimeoutError:
                pass
            finally:
                await ended(process)
            return Exit(status, tail(output.fileno()))


async def started(command: str, variables: Mapping[str, str], output: IO[bytes]) -> asyncio.subprocess.Process:
    """A shell command in a process group of its own."""
    return await asyncio.create_subprocess_shell(
        command,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


async def ended(process: asyncio.subprocess.Process) -> None:
    """End a process and all that it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _END_S)


def tail(file: int) -> str:
    """The end of what was written to a file."""
    size = os.fstat(file).st_size
    return os.pread(file, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").strip()
