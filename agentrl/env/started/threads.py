"""Threads in which an event loop runs plain functions, as for `asyncio.to_thread`.

Python's own are few, each serves one call after the other, and a program waits for them at its end. One call that does
not return would keep its place from every other episode, and the program from ending. Here a call that nobody waits for
any more gives its place to the next one; it is interrupted if an author's code made it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

from agentrl.env.blame import fault_of
from agentrl.env.watchdog import MOST_LEFT, Hung, leave, num_left, running
from agentrl.errors import ThreadsLeft

_AT_ONCE = min(32, (os.cpu_count() or 1) + 4)
"""Calls that run at the same time, as in Python's own."""
_END_S = 10.0
"""Seconds that a call of an author's may go on when the event loop has ended."""
_OURS = __name__.partition(".")[0] + "."


def use_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Let an event loop run plain functions here, unless it already has threads for them."""
    if getattr(loop, "_default_executor", loop) is None:
        loop.set_default_executor(Threads())


def check_left(name: str) -> None:
    """Raises: ThreadsLeft if too many threads go on that nobody waits for.

    Args: name: of what is to run in the next one.
    """
    if num_left() > MOST_LEFT:
        raise ThreadsLeft(
            f"{num_left()} threads of blocking tools have not returned after their timeouts and cannot be ended; the "
            f"next is {name!r}. Make such a tool `async def`, or have it run a process, which can be ended"
        )


class Threads(ThreadPoolExecutor):
    """Runs each call in a daemon thread of its own, a number of them at the same time.

    Args: at_once: calls that somebody waits for.
    """

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        super().__init__(at_once)  # asyncio asks for this class; its own threads are never started
        self._free, self._waiting = at_once, deque[_Call]()
        self._lock, self._is_open = threading.Lock(), True
        self._running = set[_Call]()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        is_authors = running.get(get_ident()) is not None and not _is_ours(function)
        if is_authors:
            check_left(_name(function))
        call = _Call(partial(function, *args, **kwargs), self, is_authors)
        with self._lock:
            if not self._is_open:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(call)
        self._begin()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait for those that somebody waits for."""
        with self._lock:
            self._is_open = False
            waiting, under_way = [*self._waiting], [*self._running]
        for call in waiting if cancel_futures else ():
            call.cancel()
        for call in (*waiting, *under_way) if wait else ():
            call.over.wait(_END_S if call.is_authors else None)

    def _begin(self) -> None:
        """Begin calls while there is a place."""
        while True:
            with self._lock:
                if not self._waiting or self._free <= 0:
                    return
                call = self._waiting.popleft()
                if not call.set_running_or_notify_cancel():
                    call.over.set()
                    continue
                self._free -= 1
                self._running.add(call)
            call.thread.start()

    def end(self, call: _Call) -> None:
        """A call has returned, or nobody waits for it: its place is free."""
        with self._lock:
            if call not in self._running:
                return
            self._running.remove(call)
            self._free += 1
        call.over.set()
        self._begin()


class _Call(Future[Any]):
    """One call. A cancellation while it runs means that nobody waits for it any more."""

    def __init__(self, function: Callable[[], Any], threads: Threads, is_authors: bool) -> None:
        super().__init__()
        self._function, self._threads, self.is_authors, self._is_left = function, threads, is_authors, False
        self.thread = threading.Thread(target=self._run, daemon=True, name="author" if is_authors else "agentrl")
        self.over = threading.Event()

    def cancel(self) -> bool:
        if super().cancel():
            return True
        if self.running():
            self._is_left = True
            if self.is_authors:
                leave(self.thread)
            self._threads.end(self)
        return False

    def _run(self) -> None:
        with suppress(Hung):  # which may come when the call has ended already
            try:
                try:
                    result = self._function()
                except GeneratorExit as error:  # would close whatever waits for it
                    fault = fault_of(f"{_name(self._function) or 'code'} in a thread", error)
                    fault.__cause__ = error
                    self.set_exception(fault)
                except BaseException as error:
                    self.set_exception(error)
                else:
                    self.set_result(result)
            finally:
                if not self._is_left:
                    self._threads.end(self)


def _inner(function: Any) -> Any:
    """What is called in the end: `asyncio.to_thread` gives a partial of `Context.run`."""
    while isinstance(function, partial):
        function = function.args[0] if function.args and callable(function.args[0]) else function.func
    return function


def _is_ours(function: Any) -> bool:
    return str(getattr(_inner(function), "__module__", "")).startswith(_OURS)


def _name(function: Any) -> str:
    return str(getattr(_inner(function), "__name__", ""))
