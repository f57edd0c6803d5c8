"""Warm sandboxes of one spec, lent one episode at a time. Owns how many there are; first come, first served.

A sandbox that comes back is reset and asked whether it still answers; one that does not is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from agentrl.sandbox.base import Backend, Sandbox, SandboxError, SandboxFault, SandboxSpec

logger = logging.getLogger(__name__)


class Pool:
    """Lends sandboxes.

    Args:
        backend: makes them.
        spec: what each starts with.
        size: how many may be lent at one time; further requests wait in line.
        starting: how many may start at one time.
        warm: how many stand ready after `open`; at most size.
        uses: requests for a sandbox after which it is replaced rather than reset; 0 means never.
    """

    def __init__(
        self, backend: Backend, spec: SandboxSpec, *, size: int = 8, starting: int = 2, warm: int = 0, uses: int = 0
    ) -> None:
        if size < 1 or starting < 1 or not 0 <= warm <= size:
            raise ValueError(
                f"a pool needs size >= 1, starting >= 1, 0 <= warm <= size; got {size}, {starting}, {warm}"
            )
        self._backend, self._spec = backend, spec
        self._size, self._warm, self._uses = size, warm, uses
        self._starts = asyncio.Semaphore(starting)
        self._ready: deque[Sandbox] = deque()
        self._line: deque[asyncio.Future[None]] = deque()
        self._lent: dict[Sandbox, int] = {}
        self._used: dict[Sandbox, int] = {}
        self._closed = False

    @property
    def lent(self) -> int:
        """How many are lent now."""
        return len(self._lent)

    async def open(self) -> None:
        """Start the warm ones, after ending what dead owners left behind.

        Raises: SandboxFault where one cannot start.
        """
        await self._backend.reap()
        started = await asyncio.gather(*(self._start() for _ in range(self._warm)), return_exceptions=True)
        self._ready.extend(item for item in started if isinstance(item, Sandbox))
        for item in started:
            if isinstance(item, BaseException):
                await self.close()
                raise item

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[Sandbox]:
        """A sandbox for the length of a `with`.

        Raises: SandboxFault where none can start, or the pool is closed.
        """
        sandbox = await self.acquire()
        try:
            yield sandbox
        finally:
            await self.release(sandbox)

    async def acquire(self) -> Sandbox:
        """A sandbox, as new; waits in line while all are lent."""
        await self._take_turn()
        try:
            sandbox = self._ready.popleft() if self._ready else await self._start()
        except BaseException:
            self._turns_back()
            raise
        self._lent[sandbox] = self._used.get(sandbox, 0) + 1
        self._used[sandbox] = self._lent[sandbox]
        return sandbox

    async def release(self, sandbox: Sandbox) -> None:
        """Give a sandbox back; it is reset for the next, or replaced where it is worn or broken."""
        uses = self._lent.pop(sandbox, None)
        if uses is None:
            raise SandboxError("this sandbox is not lent by this pool, or was given back already")
        try:
            worn = self._closed or (self._uses and uses >= self._uses)
            if not worn and await self._restored(sandbox):
                self._ready.append(sandbox)
            else:
                await self._discard(sandbox)
        except BaseException:
            await asyncio.shield(self._discard(sandbox))
            raise
        finally:
            self._turns_back()

    async def _take_turn(self) -> None:
        if self._closed:
            raise SandboxFault("this pool is closed")
        if self._size > 0 and not self._line:
            self._size -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._turns_back()
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._line.remove(turn)

    def _turns_back(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._size += 1

    async def _start(self) -> Sandbox:
        async with self._starts:
            return await self._backend.start(self._spec)

    async def _restored(self, sandbox: Sandbox) -> bool:
        try:
            await sandbox.reset()
            return await sandbox.healthy()
        except (SandboxFault, SandboxError) as error:
            logger.warning("a sandbox is replaced: %s", error)
            return False

    async def _discard(self, sandbox: Sandbox) -> None:
        self._used.pop(sandbox, None)
        await sandbox.close()

    async def close(self) -> None:
        """End all sandboxes that are not lent, and every wait in line; a lent one ends when it comes back."""
        self._closed = True
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_exception(SandboxFault("this pool was closed"))
        while self._ready:
            await self._discard(self._ready.popleft())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
