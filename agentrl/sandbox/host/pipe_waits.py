"""Short answers from pipes, awaited many thousand times. Owns one epoll per event loop.

`loop.add_reader` and `remove_reader` around every wait cost twice what the answer does, and a descriptor that is closed
while a loop knows it confuses that loop. Here a pipe is made known once, and forgotten before it is closed.
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
    """The pipes that one event loop awaits answers from."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._waits: dict[int, _Wait] = {}
        self._dropped: list[asyncio.Future[bytes | None]] = []
        self._ticking = False

    @staticmethod
    def here() -> Answers:
        """Those of the running loop, which keeps them as long as it lives."""
        loop = asyncio.get_running_loop()
        found = _of_loop.get(loop)
        if found is None:
            found = _of_loop[loop] = Answers()
            loop.add_reader(found._epoll.fileno(), found._take)
        return found

    async def read(self, fd: int, size: int, wait_s: float, give_up: Callable[[], bool]) -> bytes | None:
        """Read up to `size` bytes as soon as there are any.

        Args:
            fd: does not block; one read at a time.
            wait_s: to the next 4 ms.
            give_up: asked every 4 ms, at first after as many.
        Returns: the bytes, none where the other end hung up; None where it took too long, or was given up.
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
        """To be called before a descriptor is closed; from any thread. Who waits for it is let go at the next tick."""
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
            if wait is None or wait.answer.done():  # nobody asked: an end, or a voice out of turn
                self.forget(fd)
                continue
            try:
                answer = os.read(fd, wait.size)
            except BlockingIOError:
                continue
            wait.answer.set_result(answer)

    def _tick(self) -> None:
        """Give up what takes too long; a timer of all waits, for one each costs as much as an answer."""
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
