"""What a probe is: one attack on a sandbox, or one promise to honest programs. Owns what a probe may use.

Attacks run against backends that isolate, never against others. An attack is judged from the host if the attacker's
own report could be wrong: by the processes, files and packets that the host sees. docs/security.md lists all probes.
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
    """An attack that was not contained; the text says what happened."""


@dataclass
class Ground:
    """What a probe may use: sandboxes of one backend, and a token that marks its processes."""

    backend: Backend
    token: str = field(default_factory=lambda: f"probe{uuid4().hex}")

    @asynccontextmanager
    async def sandbox(self, limits: SandboxLimits = SMALL, **more: object) -> AsyncIterator[Sandbox]:
        """A new sandbox with small limits; `more` are fields of its `SandboxSpec`."""
        sandbox = await self.backend.start(replace(SandboxSpec(limits=limits), **more))  # type: ignore[arg-type]
        async with sandbox:
            yield sandbox

    def processes(self) -> list[int]:
        """Host process ids of the processes whose command line holds the token."""
        return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and self._marked(entry.name)]

    def _marked(self, pid: str) -> bool:
        folder = Path("/proc") / pid
        try:
            state = folder.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0]
            return state not in (b"Z", b"X") and self.token.encode() in folder.joinpath("cmdline").read_bytes()
        except (OSError, IndexError):
            return False

    async def expect_process(self) -> None:
        """Wait a moment for a marked process to run. Raises: Escaped if none does."""
        deadline_s = time.monotonic() + _MOMENT_S
        while not self.processes():
            expect(time.monotonic() < deadline_s, "the attack itself broke: none of its processes runs")
            await asyncio.sleep(0.02)

    async def expect_no_process(self) -> None:
        """Wait a moment for all marked processes to end. Raises: Escaped if one does not."""
        deadline_s = time.monotonic() + _MOMENT_S
        while self.processes():
            expect(time.monotonic() < deadline_s, f"processes {self.processes()} run on")
            await asyncio.sleep(0.02)


Attack = Callable[[Ground], Awaitable[None]]


@dataclass(frozen=True)
class Probe:
    """One attack or promise: its name, what the sandbox claims, and the code that tries it."""

    name: str
    claim: str
    attack: Attack
    slow: bool = False
    harmless: bool = False

    async def run(self, backend: Backend) -> str:
        """Run the probe; returns what went wrong, or an empty text if the claim held.

        Raises: SandboxError for an attack on a backend that does not isolate: it would hit this machine's processes
            and files.
        """
        if not (self.harmless or backend.isolates):
            raise SandboxError(f"{self.name!r} is an attack, and the {backend.name} backend does not isolate: not run")
        try:
            await self.attack(Ground(backend))
        except Escaped as escaped:
            return str(escaped)
        return ""


@dataclass
class Probes:
    """The probes of one topic. An instance is used as a decorator that adds the decorated function as a probe."""

    found: list[Probe] = field(default_factory=list)
    harmless: bool = False
    """Whether these may run on a backend that does not isolate: they do only what an honest program does."""

    def __call__(self, claim: str, *, slow: bool = False) -> Callable[[Attack], Attack]:
        """A decorator that adds its function as a probe of the same name."""

        def add(attack: Attack) -> Attack:
            self.found.append(Probe(attack.__name__.replace("_", " "), claim, attack, slow, self.harmless))
            return attack

        return add


def expect(contained: bool, otherwise: str) -> None:
    """Go on if the attack is contained so far.

    Raises: Escaped with the text `otherwise` if it is not.
    """
    if not contained:
        raise Escaped(otherwise)
