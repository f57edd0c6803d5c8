"""Why a sandbox ended, and whose doing it was. Owns that judgement; ends nothing.

A program can bring its sandbox down: it uses up memory, or makes the worker too slow to answer. That must not discard
an episode, so a sandbox in which programs have run counts as lost by their doing, unless a fresh sandbox fails too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from agentrl.sandbox.base import Sandbox, SandboxFault, SandboxLost

_PAUSES_S = (0.0, 0.5, 2.0)
"""Pauses before each try of a fresh sandbox: the kernel may still be freeing what the lost one used."""


class Ending:
    """Whether a sandbox has ended, and why.

    Args:
        fresh: starts another sandbox of the same kind; None: programs are never blamed.

    Attributes:
        why: for people; empty while the sandbox works.
        lost: whether programs may have ended it, and no fresh sandbox has failed since.
    """

    def __init__(self, fresh: Callable[[], Awaitable[Sandbox]] | None) -> None:
        self._fresh = fresh
        self._cause = ""
        self._error: SandboxFault | SandboxLost | None = None
        self.why = ""

    @property
    def lost(self) -> bool:
        return bool(self._cause) and not isinstance(self._error, SandboxFault)

    def note(self, why: str, cause: str = "") -> None:
        """Record the end; the first one counts.

        Args:
            cause: what programs did, for the model to read; empty if it was not their doing.
        """
        if not self.why:
            self.why, self._cause = why, cause if self._fresh is not None else ""

    async def error(self, ended: Callable[[], Awaitable[None]]) -> SandboxFault | SandboxLost:
        """What to raise for a request to a sandbox that has ended.

        Args: ended: waits until nothing of it is left.
        """
        if not self._cause or self._fresh is None:
            return SandboxFault(f"this sandbox has ended: {self.why}")
        if self._error is None:
            with contextlib.suppress(Exception):  # what is left of it does not decide
                await ended()
            failure = await _failure(self._fresh)
            if failure:
                self._error = SandboxFault(f"this sandbox has ended: {self.why}; a fresh one fails too: {failure}")
            else:
                self._error = SandboxLost(f"the sandbox is lost with all that was changed in it: {self._cause}")
        return self._error


async def _failure(fresh: Callable[[], Awaitable[Sandbox]]) -> str:
    """Why a fresh sandbox runs no program; empty if it does."""
    failure = ""
    for pause_s in _PAUSES_S:
        await asyncio.sleep(pause_s)
        try:
            async with await fresh() as sandbox:
                result = await sandbox.run_python("")
            if result.status != "infra":  # any other one is an answer
                return ""
            failure = result.detail
        except Exception as error:  # whatever a backend raises, it does not work
            failure = f"{type(error).__name__}: {error}"
    return failure
