"""Waiting with a time limit that a busy host does not use up. Owns the timer; knows nothing of what is awaited.

`asyncio.timeout` also ends a wait whose answer has arrived, if the event loop stood still past the limit: because of
slow code in it, or because this process was stopped. Its timer then rings late, and here another short wait follows.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_LATE_S, _AGAIN_S, _TIMES = 0.25, 1.0, 60


class Within:
    """Raises TimeoutError out of its body after a time in which the event loop ran.

    Args: wait_s: seconds.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._scope = asyncio.timeout(None)
        self._left = _TIMES

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._start(self._wait_s)
        return self

    def _start(self, wait_s: float) -> None:
        self._due_s = self._loop.time() + wait_s
        self._timer = self._loop.call_at(self._due_s, self._ring)

    def _ring(self) -> None:
        now_s = self._loop.time()
        if now_s - self._due_s > _LATE_S and self._left:
            self._left -= 1
            self._start(_AGAIN_S)
        else:
            self._scope.reschedule(now_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)
