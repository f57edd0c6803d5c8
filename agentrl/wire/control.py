"""After a failure: whether the server still answers other requests. One control request tells.

Owns which request that is, and that failures of the same moment share one. The caller sends it, and decides what
follows from the answer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

R = TypeVar("R")
MOST_KEPT = 64


class Successes(Generic[R]):
    """Requests that succeeded, the newest of each kind. A few are kept, and any thread may use them.

    Only requests that change nothing belong here, because one of them is sent again as the control.
    """

    def __init__(self) -> None:
        self._newest: dict[Hashable, R] = {}
        self._lock = threading.Lock()

    def add(self, kind: Hashable, request: R) -> None:
        """Keep a request that has just succeeded."""
        with self._lock:
            self._newest.pop(kind, None)
            self._newest[kind] = request
            if len(self._newest) > MOST_KEPT:
                del self._newest[next(iter(self._newest))]

    def nearest(self, kind: Hashable) -> R | None:
        """The newest success of this kind, or else the newest of any kind; None if there was none."""
        with self._lock:
            found = self._newest.get(kind)
            return found if found is not None else next(reversed(self._newest.values()), None)


@dataclass(slots=True, eq=False)
class _Control:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    began_s: float = float("-inf")
    status: int = 0


class Controls:
    """The control requests of one event loop."""

    def __init__(self) -> None:
        self._by_request: dict[Hashable, _Control] = {}

    async def ask(self, request: Hashable, failed_s: float, send: Callable[[], Awaitable[int]]) -> int:
        """Send a control request, unless an equal one has begun since the failure: then its answer counts.

        Args:
            request: what is sent; equal requests are shared.
            failed_s: when the failure was seen, as `time.monotonic()` gives it.
            send: sends the request once; returns the status of the answer, 0 if there was none.
        Returns: the status.
        """
        control = self._by_request.get(request)
        if control is None:
            if len(self._by_request) >= MOST_KEPT:
                self._by_request.clear()
            control = self._by_request[request] = _Control()
        async with control.lock:
            if control.began_s < failed_s:
                began_s = time.monotonic()
                control.status = await send()
                control.began_s = began_s
            return control.status
