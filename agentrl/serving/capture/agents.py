"""Agents as commands: started once for each episode. Owns their processes.

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
from typing import Protocol

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


@dataclass(frozen=True)
class CommandAgent:
    """A shell command that is started for each episode.

    Attributes:
        command: for `sh -c`.
        timeout_s: after these it is stopped.
    """

    command: str
    timeout_s: float

    @property
    def name(self) -> str:
        return self.command

    async def run(self, variables: Mapping[str, str]) -> Exit:
        with tempfile.TemporaryFile() as output:
            process = await asyncio.create_subprocess_shell(
                self.command,
                env={**os.environ, **variables},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            status: int | None = None
            try:
                status = await asyncio.wait_for(process.wait(), self.timeout_s)
            except TimeoutError:
                pass
            finally:
                await _ended(process)
            return Exit(status, _tail(output.fileno()))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a process and all that it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _END_S)


def _tail(file: int) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").strip()
