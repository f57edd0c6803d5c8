"""Copying bytes between a sandbox and a server, connecting and closing. Owns sockets; knows no rule."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus

from agentrl.sandbox.allow_list import Address
from agentrl.sandbox.egress.requests import Refusal, Request, copy_body

_CHUNK = 1 << 16
_IDLE_S, _HALF_OPEN_S = 60.0, 10.0
_LINGER_S, _LINGER_BYTES = 1.0, 1 << 20


class Spent(Exception):
    """A sandbox has used up its bytes of network traffic."""


class End:
    """One end of a connection, read in pieces."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._unread = b""

    async def piece(self, most: int = _CHUNK) -> bytes:
        """The next bytes, at most `most`; empty at the end."""
        if not self._unread:
            return await asyncio.get_running_loop().sock_recv(self.connection, min(most, _CHUNK))
        piece, self._unread = self._unread[:most], self._unread[most:]
        return piece

    async def until(self, mark: bytes, most: int) -> bytes:
        """Everything up to a mark, without the mark.

        Raises: Refusal if the first `most` bytes do not hold it; EOFError at the end.
        """
        while mark not in self._unread[: most + len(mark)]:
            if len(self._unread) > most:
                raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {most} bytes of header")
            more = await asyncio.get_running_loop().sock_recv(self.connection, _CHUNK)
            if not more:
                raise EOFError
            self._unread += more
        found, _, self._unread = self._unread.partition(mark)
        return found

    async def send(self, content: bytes) -> None:
        """Send all of the content."""
        await asyncio.get_running_loop().sock_sendall(self.connection, content)


async def carry(client: End, server: End, request: Request, count: Callable[[int], None]) -> None:
    """Copy in both directions, until both have ended, one fails, or nothing has moved for too long.

    Args:
        count: called with each number of bytes that moved; raises Spent to stop the copying.
    """
    try:
        async with asyncio.timeout(_IDLE_S) as idle, asyncio.TaskGroup() as both:
            traffic = _Traffic(count, idle)
            if request.tunnel:
                await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                both.create_task(traffic.move(client, server))
                await traffic.move(server, client)
            else:
                await server.send(request.head)
                outward = both.create_task(traffic.move_request(client, server, request))
                await traffic.move(server, client)
                outward.cancel()  # the answer is complete: the rest of the request is not needed
    except* (OSError, EOFError, Refusal, Spent):
        pass


class _Traffic:
    """Copies the bytes of one connection in either direction, and restarts its idle timer when something moves."""

    def __init__(self, count: Callable[[int], None], idle: asyncio.Timeout) -> None:
        self._count, self._idle, self._quiet_s = count, idle, _IDLE_S

    async def move(self, source: End, target: End) -> None:
        """Copy everything, then the end of file."""
        while piece := await source.piece():
            self._moved(len(piece))
            await target.send(piece)
        self._half_open()
        target.connection.shutdown(socket.SHUT_WR)

    async def move_request(self, client: End, server: End, request: Request) -> None:
        """Copy a plain request's body; then read and drop what follows, to notice when the program closes."""

        async def send(piece: bytes) -> None:
            self._moved(len(piece))
            await server.send(piece)

        await copy_body(client, request, send)
        while piece := await client.piece():
            self._moved(len(piece))
        self._half_open()

    def _moved(self, count: int) -> None:
        self._count(count)
        if not self._idle.expired():
            self._idle.reschedule(asyncio.get_running_loop().time() + self._quiet_s)

    def _half_open(self) -> None:
        self._quiet_s = _HALF_OPEN_S
        self._moved(0)


async def first_to_answer(addresses: Sequence[Address], port: int, wait_s: float) -> socket.socket:
    """A connection to the first address that accepts one; the time is shared equally among the addresses.

    Raises: OSError of the last address.
    """
    failure = OSError("it has no address")
    for address in addresses:
        server = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        server.setblocking(False)
        try:
            async with asyncio.timeout(wait_s / len(addresses)):
                await asyncio.get_running_loop().sock_connect(server, (str(address), port))
            return server
        except OSError as error:
            server.close()
            failure = error
        except BaseException:
            server.close()
            raise
    raise failure


async def hang_up(client: End, answer: bytes) -> None:
    """Send an answer, then read what is still arriving: closing at once would destroy the answer."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_LINGER_S):
            await client.send(answer)
            client.connection.shutdown(socket.SHUT_WR)
            left = _LINGER_BYTES
            while left > 0 and (piece := await client.piece()):
                left -= len(piece)
