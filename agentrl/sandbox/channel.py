"""A connection to a worker: frames over a socket. Owns the bytes; knows no operation.

Bound to no event loop: a sandbox may be used from one loop after another.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from agentrl.sandbox.worker.frames import PREFIX, FrameError, lengths, pack, unpack


class ChannelClosed(Exception):
    """The worker hung up, or sent what is no frame."""


class Channel:
    """One socket, one request in flight."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection

    async def ask(
        self, header: dict[str, Any], parts: Sequence[bytes], max_reply_bytes: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for its reply.

        Raises: ChannelClosed; after that, or after a cancellation, the channel is of no further use.
        """
        loop = asyncio.get_running_loop()
        try:
            for buffer in pack(header, parts):
                await loop.sock_sendall(self._connection, buffer)
            head_size, body_size = lengths(bytes(await self._read(PREFIX.size)), max_reply_bytes)
            reply, views = unpack(bytes(await self._read(head_size)), await self._read(body_size))
        except (OSError, FrameError, ValueError) as error:
            raise ChannelClosed(str(error) or type(error).__name__) from error
        return reply, [bytes(view) for view in views]

    async def _read(self, size: int) -> bytearray:
        loop = asyncio.get_running_loop()
        content = bytearray(size)
        view = memoryview(content)
        while view:
            count = await loop.sock_recv_into(self._connection, view)
            if not count:
                raise ChannelClosed("it hung up")
            view = view[count:]
        return content

    def close(self) -> None:
        """Hang up; the worker ends."""
        self._connection.close()
