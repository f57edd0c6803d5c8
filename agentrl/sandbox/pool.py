"""Running sandboxes of this process, lent to one episode at a time and emptied after it. Owns the lending.

A pool serves every event loop of the process: a sandbox belongs to no loop, and an environment that is driven by
`reset` and `step` has a loop of its own. A sandbox that cannot be emptied is closed and never lent again. The backend
decides how well a sandbox isolates.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from agentrl.sandbox.base import Backend, Sandbox, SandboxError, SandboxFault, SandboxSpec
from agentrl.sandbox.registry import make_backend
from agentrl.wire.per_loop import PerLoop

logger = logging.getLogger(__name__)
MAX_IDLE = 16
"""Sandboxes of one kind that wait for the next episode."""
MAX_LENT = 64
"""Sandboxes of one kind that the episodes of one event loop hold at a time; the next episode waits for one."""
_MAX_STARTS = 4
_TELL_S, _WAIT_S = 60.0, 3600.0
"""An episode may hold its sandbox for as long as its programs run; longer than this, it is most likely forgotten."""


class Pool:
    """Sandboxes of one kind: the same backend and the same spec."""

    def __init__(self, backend: Backend, spec: SandboxSpec) -> None:
        self._backend, self._spec = backend, spec
        self._idle: deque[Sandbox] = deque()
        self._left: deque[Sandbox] = deque()
        self._unended: deque[Sandbox] = deque()
        self._reaped = False
        self._turns = PerLoop(lambda: asyncio.Semaphore(MAX_LENT))
        self._starts = PerLoop(lambda: asyncio.Semaphore(_MAX_STARTS))

    async def lend(self) -> Sandbox:
        """An empty sandbox; give it back with `take_back`, in the same loop.

        Raises: SandboxFault if none can be started, or if no other episode gives one back in time.
        """
        turns = self._turns.get()
        full = f"all {MAX_LENT} sandboxes are lent; an episode waits for one"
        told = asyncio.get_running_loop().call_later(_TELL_S, logger.warning, full)
        try:
            async with asyncio.timeout(_WAIT_S):
                await turns.acquire()
        except TimeoutError as error:
            raise SandboxFault(
                f"all {MAX_LENT} sandboxes are lent, and none came back within {_WAIT_S:g} s: "
                "close environments and forks that are no longer used"
            ) from error
        finally:
            told.cancel()
        try:
            return await self._ready()
        except BaseException:
            turns.release()
            raise

    def on_drop(self) -> Callable[[Sandbox], None]:
        """A function for a sandbox that an episode never gave back; it may be called from any thread.

        Call `on_drop` itself in the loop that lent the sandbox. The next `lend` empties the sandbox.
        """
        loop, turns = asyncio.get_running_loop(), self._turns.get()

        def leave(sandbox: Sandbox) -> None:
            self._left.append(sandbox)
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits in it
                loop.call_soon_threadsafe(turns.release)

        return leave

    async def _ready(self) -> Sandbox:
        while self._left:
            with contextlib.suppress(IndexError):  # another thread was quicker
                await self._empty(self._left.popleft())
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                sandbox = self._idle.pop()
                if await self._is_healthy(sandbox):
                    return sandbox
                await self._close(sandbox)
        for _ in range(len(self._unended)):
            await self._close(self._unended.popleft())
        async with self._starts.get():
            if not self._reaped:
                self._reaped = True
                await self._backend.reap()
            return await self._backend.start(self._spec)

    async def _is_healthy(self, sandbox: Sandbox) -> bool:
        try:
            return await sandbox.healthy()
        except BaseException:  # cancelled: what it was asked has ended it
            await self._close(sandbox)
            raise

    async def take_back(self, sandbox: Sandbox) -> None:
        """Empty a sandbox for the next episode, or close it if that fails."""
        try:
            await self._empty(sandbox)
        finally:
            self._turns.get().release()

    async def _empty(self, sandbox: Sandbox) -> None:
        try:
            if not sandbox.lost and len(self._idle) < MAX_IDLE:
                await sandbox.reset()
                self._idle.append(sandbox)
                return
        except (SandboxFault, SandboxError):
            pass
        except BaseException:  # cancelled before it was empty
            await self._close(sandbox)
            raise
        await self._close(sandbox)

    async def _close(self, sandbox: Sandbox) -> None:
        """Close a sandbox; one that cannot be closed now is closed later, and fails no episode."""
        try:
            await sandbox.close()
        except Exception as error:  # such as programs that take long to die, or a daemon that does not answer
            logger.warning("a sandbox cannot be closed yet: %s: %s", type(error).__name__, error)
            self._unended.append(sandbox)

    async def clear(self) -> None:
        """Close what is idle. What cannot be closed now is closed by the next `lend` or `clear`."""
        for waiting in (self._left, self._idle, self._unended):
            for _ in range(len(waiting)):
                await self._close(waiting.popleft())


_pools: dict[Any, Pool] = {}


def pool_of(backend: str, options: Mapping[str, Any], spec: SandboxSpec) -> Pool:
    """This process's pool for a backend's name, its options, and a spec without files.

    Raises: SandboxError, SandboxFault as `make_backend` does.
    """
    key = (backend, tuple(sorted(options.items())), repr(spec))
    if key not in _pools:
        _pools[key] = Pool(make_backend(backend, **options), spec)
    return _pools[key]


async def clear_pools() -> None:
    """Close every idle sandbox of this process; the next episode starts new ones."""
    for pool in list(_pools.values()):
        await pool.clear()


def _close_at_exit() -> None:
    with contextlib.suppress(RuntimeError):  # the process exits inside a loop: its end closes the sandboxes
        asyncio.run(clear_pools())


def _forget_in_child() -> None:
    """A forked process has copies of the sockets, but the sandboxes stay with its parent."""
    _pools.clear()


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_forget_in_child)
