"""Waiting for short answers from pipes, many thousand times. Owns one epoll for each event loop, not the pipes.

`loop.add_reader` and `remove_reader` around every wait cost twice as much as the answer itself, and closing a
descriptor that is registered with a loop confuses that loop. Here a pipe is registered once, and unregistered before
it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

_TICK_S = 0.004


class _Wait(NamedTuple):
    answer: asyncio.Future[bytes | None]
    size: int
    since_s: float
    until_s: float
    give_up: Callable[[], bool]


class Answers:
    """The pipes from which one event loop awaits answers."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._waits: dict[int, _Wait] = {}
        self._dropped: list[asyncio.Future[bytes | None]] = []
        self._ticking = False

    @staticmethod
    def here() -> Answers:
        """The instance of the running loop, made at first use; it lives as long as the loop."""
        loop = asyncio.get_running_loop()
        found = _of_loop.get(loop)
        if found is None:
            found = _of_loop[loop] = Answers()
            loop.add_reader(found._epoll.fileno(), found._take)
        return found

    async def read(self, fd: int, size: int, wait_s: float, give_up: Callable[[], bool]) -> bytes | None:
        """Read up to `size` bytes as soon as there are any.

        Args:
            fd: non-blocking; there may be one read at a time.
            wait_s: longest wait, rounded up to the next 4 ms.
            give_up: asked every 4 ms whether to stop waiting.
        Returns: the bytes; no bytes if the other end is closed; None if it took too long or `give_up` said so.
        """
        if fd not in self._known:
            self._epoll.register(fd, select.EPOLLIN)
            self._known.add(fd)
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        wait = self._waits[fd] = _Wait(loop.create_future(), size, now_s, now_s + wait_s, give_up)
        if not self._ticking:
            self._ticking = True
            loop.call_later(_TICK_S, self._tick)
        try:
            return await wait.answer
        finally:
            if self._waits.get(fd) is wait:
                del self._waits[fd]

    def forget(self, fd: int) -> None:
        """Unregister a descriptor before it is closed; from any thread. A wait for it ends within 4 ms."""
        wait = self._waits.pop(fd, None)
        if wait is not None:
            self._dropped.append(wait.answer)
        if fd in self._known:
            self._known.discard(fd)
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _take(self) -> None:
        for fd, _ in self._epoll.poll(0):
            wait = self._waits.get(fd)
            if wait is None or wait.answer.done():  # nobody waits: the pipe is closed, or foreign code wrote unasked
                self.forget(fd)
                continue
            try:
                answer = os.read(fd, wait.size)
            except BlockingIOError:
                continue
            wait.answer.set_result(answer)

    def _tick(self) -> None:
        """End the waits that take too long. One timer serves all: a timer for each would cost as much as an answer."""
        dropped, self._dropped = self._dropped, []
        for answer in dropped:
            if not answer.done():
                answer.set_result(None)
        self._ticking = bool(self._waits)
        if not self._ticking:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(_TICK_S, self._tick)
        now_s = loop.time()
        for wait in self._waits.values():
            old = now_s - wait.since_s >= _TICK_S
            if old and not wait.answer.done() and (now_s >= wait.until_s or wait.give_up()):
                wait.answer.set_result(None)


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Answers] = WeakKeyDictionary()
