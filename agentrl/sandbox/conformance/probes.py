"""Attacks on a sandbox, each one runnable against any backend with walls. Owns what an attack may use.

An attack is judged from the host wherever the attacker's own report could be wrong: by the processes, files and
packets that the host sees. `docs/security.md` holds the table.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from agentrl.sandbox.base import Backend, Sandbox, SandboxError, SandboxLimits, SandboxSpec

MIB = 1024**2
SMALL = SandboxLimits(
    wall_s=3, cpu_s=3, memory_bytes=128 * MIB, pids=24, disk_bytes=8 * MIB, inodes=256, file_bytes=4 * MIB
)
_MOMENT_S = 1.0


class Escaped(Exception):
    """An attack that was not contained; the text says what came of it."""


@dataclass
class Ground:
    """What an attack may use: sandboxes of one backend, and a token that marks its processes."""

    backend: Backend
    token: str = field(default_factory=lambda: f"probe{uuid4().hex}")

    @asynccontextmanager
    async def sandbox(self, limits: SandboxLimits = SMALL, **more: object) -> AsyncIterator[Sandbox]:
        """A sandbox of its own with small limits."""
        sandbox = await self.backend.start(replace(SandboxSpec(limits=limits), **more))  # type: ignore[arg-type]
        async with sandbox:
            yield sandbox

    def processes(self) -> list[int]:
        """Processes on the host whose command line holds the token, as the host sees them."""
        return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and self._marked(entry.name)]

    def _marked(self, pid: str) -> bool:
        folder = Path("/proc") / pid
        try:
            state = folder.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0]
            return state not in (b"Z", b"X") and self.token.encode() in folder.joinpath("cmdline").read_bytes()
        except (OSError, IndexError):
            return False

    async def expect_process(self) -> None:
        """Something marked runs on the host within a moment."""
        deadline_s = time.monotonic() + _MOMENT_S
        while not self.processes():
            expect(time.monotonic() < deadline_s, "the attack itself broke: none of its processes runs")
            await asyncio.sleep(0.02)

    async def expect_no_process(self) -> None:
        """Nothing marked is left on the host a moment later."""
        deadline_s = time.monotonic() + _MOMENT_S
        while self.processes():
            expect(time.monotonic() < deadline_s, f"processes {self.processes()} run on")
            await asyncio.sleep(0.02)


Attack = Callable[[Ground], Awaitable[None]]


@dataclass(frozen=True)
class Probe:
    """One attack: a name, what the sandbox claims against it, and how it is made."""

    name: str
    claim: str
    attack: Attack
    slow: bool = False
    harmless: bool = False

    async def run(self, backend: Backend) -> str:
        """Make the attack; returns what came of it, empty where it was contained.

        Raises: SandboxError where the backend has no walls: without them an attack hits this machine, its other
            processes and its files.
        """
        if not (self.harmless or backend.isolates):
            raise SandboxError(f"{self.name!r} is an attack, and the {backend.name} backend has no walls: not made")
        try:
            await self.attack(Ground(backend))
        except Escaped as escaped:
            return str(escaped)
        return ""


@dataclass
class Probes:
    """Probes of one topic, collected by a decorator."""

    found: list[Probe] = field(default_factory=list)
    harmless: bool = False
    """Whether these may run without walls: they ask for nothing that an honest program would not."""

    def __call__(self, claim: str, *, slow: bool = False) -> Callable[[Attack], Attack]:
        """Add the decorated attack; it is named like its function."""

        def add(attack: Attack) -> Attack:
            self.found.append(Probe(attack.__name__.replace("_", " "), claim, attack, slow, self.harmless))
            return attack

        return add


def expect(contained: bool, otherwise: str) -> None:
    """Go on where the attack is contained so far.

    Raises: Escaped with what came of it.
    """
    if not contained:
        raise Escaped(otherwise)
