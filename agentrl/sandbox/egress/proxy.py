"""The way out of a sandbox: a proxy on the host that lets through what an allow-list names. Owns who may go where.

A sandbox's own network stays empty. The proxy accepts on a socket that the worker opened in there and handed out,
so nothing of ours runs inside, no file is shared, and whoever connects to that socket reaches this proxy alone.
It does not look into what it carries: an allowed host can be sent anything, and TLS is not opened.

A sandbox may be used from one event loop after another, so the proxy has a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from ipaddress import ip_address

from agentrl.sandbox.allow_list import Address, Target, lets, objection, parse_entry
from agentrl.sandbox.base import Network
from agentrl.sandbox.egress.requests import Refusal, read_request
from agentrl.sandbox.egress.thread import ProxyThread
from agentrl.sandbox.egress.traffic import End, Spent, carry, first_to_answer, hang_up

logger = logging.getLogger(__name__)

PORT = 3128
"""Where programs find the proxy, on the loopback device of their sandbox."""
MAX_CONNECTIONS = 16
"""Of one sandbox at a time: each holds two descriptors of this process."""
_LOOKUPS = 2
"""Names of one sandbox that are looked up at a time: lookups that hang do not hold up a neighbour's."""
_BETWEEN_S, _FULL_S = 0.005, 0.05
"""Rest after each connection, so that a program that does nothing but connect costs this process little."""
_HEAD_S, _CONNECT_S, _ENDED_S = 10.0, 15.0, 5.0

Resolve = Callable[[str], Awaitable[Sequence[Address]]]


def proxy_variables(network: Network) -> dict[str, str]:
    """Environment variables that send programs to the proxy; none where the network is off."""
    if network.off:
        return {}
    named = {parse_entry(text).host for text in network.allow}
    beside = ",".join(host for host in ("localhost", "127.0.0.1", "::1") if host not in named)
    url = f"http://127.0.0.1:{PORT}"
    variables = {"http_proxy": url, "https_proxy": url, "all_proxy": url, "no_proxy": beside}
    return {**variables, **{name.upper(): value for name, value in variables.items()}}


async def resolve(host: str) -> list[Address]:
    """The addresses of a name, as this machine's resolver gives them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(row[4][0]) for row in found]


class Door:
    """Lets the programs of one sandbox out to what its allow-list names, until it is closed.

    Args:
        listener: listens where only those programs can connect to; closed with the door.
        network: the allow-list and its limits.
        resolve: gives the addresses of a name.
    """

    def __init__(self, listener: socket.socket, network: Network, resolve: Resolve = resolve) -> None:
        listener.setblocking(False)
        self._listener, self._network, self._resolve = listener, network, resolve
        self._entries = tuple(parse_entry(text) for text in network.allow)
        self._tasks: set[asyncio.Task[None]] = set()
        self._carried_bytes = 0
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._closing = threading.Lock()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = ProxyThread.hold()
        self._thread.loop.call_soon_threadsafe(self._listen)

    def renew(self) -> None:
        """Drop every connection, and count bytes anew: another episode begins."""
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._thread.loop.call_soon_threadsafe(self._drop)

    def close(self) -> None:
        """Listen no more and drop every connection; returns at once. May be called twice, from any thread."""
        if self._closing.acquire(blocking=False):
            self._thread.loop.call_soon_threadsafe(self._end)

    async def ended(self) -> None:
        """Wait until nothing of it is left; close it first."""
        with contextlib.suppress(TimeoutError):  # a forked process has no such thread
            async with asyncio.timeout(_ENDED_S):
                await asyncio.shield(asyncio.wrap_future(self._ended))

    # In the thread.

    def _end(self) -> None:
        self._ending = self._thread.loop.create_task(self._shut())

    async def _shut(self) -> None:
        self._thread.loop.remove_reader(self._listener)
        self._drop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        self._thread.release()
        self._ended.set_result(None)

    def _drop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._carried_bytes = 0

    def _listen(self) -> None:
        """Take one connection when it comes; while too many are open, look again later."""
        if self._closing.locked():
            return
        if len(self._tasks) < 2 * MAX_CONNECTIONS:
            self._thread.loop.add_reader(self._listener, self._accept)
        else:
            self._thread.loop.call_later(_FULL_S, self._listen)

    def _accept(self) -> None:
        loop = self._thread.loop
        loop.remove_reader(self._listener)
        loop.call_later(_BETWEEN_S, self._listen)
        with contextlib.suppress(OSError):  # it is gone already, or no descriptor is free: others give theirs back
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            task = loop.create_task(self._attend(End(connection)))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._over, connection))

    def _over(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        connection.close()
        self._tasks.discard(task)

    async def _attend(self, client: End) -> None:
        """One connection from inside, from its first byte to its last."""
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                text = f"{MAX_CONNECTIONS} connections are open, and no more may be"
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text)
            async with asyncio.timeout(_HEAD_S):
                request = await read_request(client)
            with await self._connect(request.target) as server:
                await carry(client, End(server), request, self._count)
        except Refusal as refusal:
            logger.debug("refused: %s", refusal)
            await hang_up(client, refusal.answer)
        except (OSError, EOFError):  # gone, or silent for too long
            pass

    async def _connect(self, target: Target) -> socket.socket:
        """A connection to a target that the list names, at an address that was checked.

        Raises: Refusal.
        """
        if not lets(self._entries, target):
            allowed = f"allowed are {', '.join(self._network.allow)}"
            raise Refusal(HTTPStatus.FORBIDDEN, f"{target} is not on the allow-list of this sandbox", allowed)
        if self._carried_bytes > self._network.max_bytes:
            raise Refusal(HTTPStatus.FORBIDDEN, f"this sandbox has had its {self._network.max_bytes} bytes of network")
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await first_to_answer(await self._addresses(target), target.port, _CONNECT_S)
        except OSError as error:
            raise Refusal(HTTPStatus.BAD_GATEWAY, f"{target} cannot be reached: {_cause(error)}") from error

    async def _addresses(self, target: Target) -> list[Address]:
        if target.address is not None:
            return [target.address]  # the entry spells it out
        async with self._lookups:
            found = await self._resolve(target.host)
        objections = {address: objection(address, private=self._network.private) for address in found}
        good = [address for address, why in objections.items() if not why]
        if not good:
            why = next(iter(objections.values()), "no address")
            raise Refusal(HTTPStatus.FORBIDDEN, f"{target.host} stands for {why}")
        return good

    def _count(self, count: int) -> None:
        self._carried_bytes += count
        if self._carried_bytes > self._network.max_bytes:
            raise Spent


def _cause(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    # The event loop's own text for a refused connection says less than the number.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror or error)
