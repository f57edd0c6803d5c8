"""One object per event loop: connections belong to the loop that opened them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Makes an object on first use in a loop; each loop has its own.

    Args:
        make: called inside the running loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self) -> T:
        """The running loop's object."""
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            self._made[loop] = self._make()
        return self._made[loop]

    def peek(self) -> T | None:
        """The running loop's object, if one was made."""
        return self._made.get(asyncio.get_running_loop())

    def forget(self) -> None:
        """Let the running loop's object go; the next `get` makes another."""
        self._made.pop(asyncio.get_running_loop(), None)
