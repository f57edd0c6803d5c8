"""Bytes between a sandbox and a server: reading, connecting, copying, hanging up. Owns sockets; knows no rule."""

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
    """A sandbox has had all the bytes that it may have."""


class End:
    """One end of a connection, read by pieces."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._unread = b""

    async def piece(self, most: int = _CHUNK) -> bytes:
        """What there is, at most so many bytes; empty at the end."""
        if not self._unread:
            return await asyncio.get_running_loop().sock_recv(self.connection, min(most, _CHUNK))
        piece, self._unread = self._unread[:most], self._unread[most:]
        return piece

    async def until(self, mark: bytes, most: int) -> bytes:
        """Everything up to a mark, without it.

        Raises: Refusal where so many bytes hold none; EOFError at the end.
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
        """All of it."""
        await asyncio.get_running_loop().sock_sendall(self.connection, content)


async def carry(client: End, server: End, request: Request, count: Callable[[int], None]) -> None:
    """Both directions, until both have ended, or one is broken, or nothing has moved for too long.

    Args:
        count: gets the number of bytes that moved; raises Spent to end it.
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
                outward.cancel()  # the answer is there: what the program still says is for nobody
    except* (OSError, EOFError, Refusal, Spent):
        pass


class _Traffic:
    """What moves on one connection, in either direction, and keeps it from being idle."""

    def __init__(self, count: Callable[[int], None], idle: asyncio.Timeout) -> None:
        self._count, self._idle, self._quiet_s = count, idle, _IDLE_S

    async def move(self, source: End, target: End) -> None:
        """Everything, then the end."""
        while piece := await source.piece():
            self._moved(len(piece))
            await target.send(piece)
        self._half_open()
        target.connection.shutdown(socket.SHUT_WR)

    async def move_request(self, client: End, server: End, request: Request) -> None:
        """A plain request's body; then read on, to see the end, and drop what comes: it is no part of it."""

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
    """A connection to the first address that takes one; each has its share of the time.

    Raises: OSError of the last one.
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
    """Answer, and read what is on its way: closing at once would destroy the answer."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_LINGER_S):
            await client.send(answer)
            client.connection.shutdown(socket.SHUT_WR)
            left = _LINGER_BYTES
            while left > 0 and (piece := await client.piece()):
                left -= len(piece)
