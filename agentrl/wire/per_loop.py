"""One object per event loop, because a connection works only in the loop that opened it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
# An event loop refers to its tasks only weakly. This set keeps them until they have ended.
_closing: set[asyncio.Task[None]] = set()


class PerLoop(Generic[T]):
    """Makes an object the first time that a loop asks for it; each loop has its own.

    A `PerLoop` that is dropped closes its objects, each in its own loop. An object whose loop is already
    closed cannot be closed any more; it is only freed, and asyncio then closes its sockets with a warning.

    Args:
        make: makes the object; called inside the running loop.
        aclose: closes an object when the `PerLoop` is dropped; None closes nothing. It must not refer to
            the owner of the `PerLoop`, which would then never be dropped.
    """

    def __init__(self, make: Callable[[], T], aclose: Callable[[T], Coroutine[Any, Any, None]] | None = None) -> None:
        self._make = make
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()
        if aclose is not None:
            weakref.finalize(self, _close_all, self._made, aclose).atexit = False

    def get(self) -> T:
        """The running loop's object."""
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            self._forget_closed_loops()
            self._made[loop] = self._make()
        return self._made[loop]

    def peek(self) -> T | None:
        """The running loop's object, if one was made."""
        return self._made.get(asyncio.get_running_loop())

    def forget(self) -> None:
        """Forget the running loop's object without closing it; the next `get` makes another."""
        self._made.pop(asyncio.get_running_loop(), None)

    def _forget_closed_loops(self) -> None:
        # An open connection refers to its loop, so weak keys alone would keep both forever.
        for reference in self._made.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                self._made.pop(loop, None)


def _close_all(
    made: MutableMapping[asyncio.AbstractEventLoop, T], aclose: Callable[[T], Coroutine[Any, Any, None]]
) -> None:
    for loop, item in list(made.items()):
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_start_closing, aclose, item)


def _start_closing(aclose: Callable[[T], Coroutine[Any, Any, None]], item: T) -> None:
    task = asyncio.get_running_loop().create_task(aclose(item))
    _closing.add(task)
    task.add_done_callback(_closing.discard)
