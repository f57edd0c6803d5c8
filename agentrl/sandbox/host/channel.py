"""A connection to a worker: frames over a socket. Owns the bytes; knows nothing of what they ask for.

It is bound to no event loop, so a sandbox may be used from one loop after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl.sandbox.worker.frames import NO_DESCRIPTORS, PREFIX, FrameError, Headers, lengths, pack, split

_AHEAD = 1 << 13
"""How many bytes are read at once: most replies then take one call."""


class ChannelClosed(Exception):
    """The worker closed the connection, or sent something that is not a frame.

    Attributes:
        asked: whether any of the request was sent; else the worker was gone before.
    """

    def __init__(self, why: str, *, asked: bool = True) -> None:
        super().__init__(why)
        self.asked = asked


@contextlib.contextmanager
def _closed_by_failure() -> Iterator[None]:
    try:
        yield
    except (OSError, FrameError, ValueError) as error:
        raise ChannelClosed(str(error) or type(error).__name__) from error


async def until_readable(fd: int) -> None:
    """Wait until a descriptor has something to read, or its other end is closed."""
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    loop.add_reader(fd, _note, seen)
    try:
        await seen
    finally:
        loop.remove_reader(fd)


def _note(seen: asyncio.Future[None]) -> None:
    if not seen.done():
        seen.set_result(None)


class Channel:
    """One socket with one request at a time."""

    carries_fds = True
    """Whether the worker can send descriptors over it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._seen: asyncio.Future[None] | None = None
        self._ahead = b""
        self._headers = Headers()

    async def ask(
        self, header: dict[str, Any] | bytes, parts: Sequence[bytes], max_reply_bytes: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for its reply.

        Raises: FrameError for a request that is too long, of which nothing is sent; ChannelClosed. After that, or
            after a cancellation, the channel cannot be used any more.
        """
        frame = pack(header, parts)
        with _closed_by_failure():
            await self._send(frame)
            await self._until_readable()  # a read without waiting would nearly always find nothing
            self._look_ahead()
            return await self._reply(max_reply_bytes)

    async def ask_for_fds(
        self, header: dict[str, Any], count: int, max_reply_bytes: int
    ) -> tuple[dict[str, Any], list[int] | None]:
        """Send a request that the worker answers by one byte with `count` descriptors, followed by its reply.

        Returns: the reply, and the descriptors, which the caller must close; None if the worker could send none.
        Raises: ChannelClosed; also for a connection other than a unix socket, which cannot carry descriptors.
        """
        frame = pack(header)
        with _closed_by_failure():
            await self._send(frame)
            await self._until_readable()
            mark, fds, _, _ = socket.recv_fds(self._connection, 1, count, socket.MSG_CMSG_CLOEXEC)
            try:
                return (await self._reply(max_reply_bytes))[0], None if mark == NO_DESCRIPTORS else fds
            except BaseException:
                for fd in fds:
                    os.close(fd)
                raise

    async def _send(self, buffers: Sequence[bytes | memoryview]) -> None:
        try:
            sent = self._connection.sendmsg(buffers)  # most requests fit into one call
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ChannelClosed(str(error), asked=False) from error
        for buffer in buffers:
            if sent < len(buffer):
                await asyncio.get_running_loop().sock_sendall(self._connection, memoryview(buffer)[sent:])
            sent = max(0, sent - len(buffer))

    async def _reply(self, max_reply_bytes: int) -> tuple[dict[str, Any], list[bytes]]:
        prefix = self._at_once(PREFIX.size) or bytes(await self._read(PREFIX.size))
        head_size, sizes = lengths(prefix, max_reply_bytes)
        reply = self._headers.parse(self._at_once(head_size) or bytes(await self._read(head_size)))
        views = split(self._at_once(sum(sizes)) or await self._read(sum(sizes)), sizes)
        return reply, [bytes(view) for view in views]

    async def _until_readable(self) -> None:
        """As `until_readable`, but `close` also ends the wait."""
        loop, fd = asyncio.get_running_loop(), self._connection.fileno()
        seen = self._seen = loop.create_future()
        loop.add_reader(fd, _note, seen)
        try:
            await seen
        finally:
            if self._seen is seen:
                loop.remove_reader(fd)
                self._seen = None

    def _look_ahead(self) -> None:
        """Read what has arrived, without waiting."""
        with contextlib.suppress(BlockingIOError):
            self._ahead += self._connection.recv(_AHEAD)

    def _at_once(self, size: int) -> bytes:
        """The next `size` bytes if they have arrived, else no bytes."""
        if len(self._ahead) < size:
            return b""
        content, self._ahead = self._ahead[:size], self._ahead[size:]
        return content

    async def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            view = view[await self._read_some(view) :]
        return content

    async def _read_some(self, view: memoryview) -> int:
        """Read into the front of a view; returns how many bytes were read, at least one."""
        loop = asyncio.get_running_loop()
        if not self._ahead and len(view) >= _AHEAD:
            count = await loop.sock_recv_into(self._connection, view)
            if not count:
                raise ChannelClosed("it hung up")
            return count
        if not self._ahead:
            self._ahead = await loop.sock_recv(self._connection, _AHEAD)
            if not self._ahead:
                raise ChannelClosed("it hung up")
        count = min(len(view), len(self._ahead))
        view[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count

    def close(self) -> None:
        """Close the connection; the worker ends, and so does a wait for it."""
        seen, self._seen = self._seen, None
        if seen is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                seen.get_loop().remove_reader(self._connection.fileno())
                _note(seen)
        self._connection.close()
