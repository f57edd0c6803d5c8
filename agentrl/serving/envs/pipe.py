"""The client's end of one connection: bytes in, heads and frames out. Owns no session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from agentrl.errors import EnvFault
from agentrl.serving.envs.wire import LENGTH_BYTES, MOST_BYTES

T = TypeVar("T")
_END = b"\r\n\r\n"
_LOOKS = 4
"""Looks in the time that an answer may take."""


class Pipe(asyncio.Protocol):
    """One connection. `asyncio.StreamReader` would take three times as long for a frame."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._lost = exc or ConnectionResetError("the server hung up")
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def head(self) -> bytes:
        """The head of an answer. Raises: OSError if the connection is lost."""
        return await self._until(self._take_head)

    async def frame(self) -> bytes:
        """The next frame. Raises: OSError if the connection is lost; EnvFault if the frame is too large."""
        return await self._until(self._take_frame)

    async def frame_within(self, seconds: float) -> bytes:
        """`frame`. Raises: EnvFault if it takes longer; also as `frame`."""
        # One timer looks at the waits of the connection in turn: a timer for each would cost as much as the rest.
        self._since_s = time.monotonic()
        if self._timer is None:
            self._look(seconds)
        try:
            return await self.frame()
        finally:
            self._since_s = None

    def _look(self, seconds: float) -> None:
        """End a wait that began too long ago; look again later."""
        waits = self._waiter is not None and not self._waiter.done() and self._since_s is not None
        if waits and time.monotonic() - (self._since_s or 0.0) > seconds:
            self._waiter.set_exception(EnvFault(f"the server has not answered within {seconds:g} s"))  # type: ignore[union-attr]
        self._timer = asyncio.get_running_loop().call_later(seconds / _LOOKS, self._look, seconds)

    async def body(self, length: int) -> bytes:
        """As many bytes. Raises: OSError if the connection is lost."""
        return await self._until(lambda: self._take(0, length))

    async def _until(self, take: Callable[[], T | None]) -> T:
        while (found := take()) is None:
            if self._lost is not None:
                raise ConnectionResetError(f"the connection was lost: {self._lost}") from self._lost
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return found

    def _take(self, begin: int, end: int) -> bytes | None:
        if len(self._buffer) < end:
            return None
        found = bytes(self._buffer[begin:end])
        del self._buffer[:end]
        return found

    def _take_head(self) -> bytes | None:
        end = self._buffer.find(_END)
        if end < 0 and len(self._buffer) > MOST_BYTES:
            raise ConnectionResetError("the answer has no end of its head")
        return None if end < 0 else self._take(0, end + len(_END))

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if size > MOST_BYTES:
            raise EnvFault(f"the server sent a message of {size} bytes, more than {MOST_BYTES >> 20} MiB")
        return self._take(LENGTH_BYTES, LENGTH_BYTES + size)
