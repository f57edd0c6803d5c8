"""A proxy on the host that lets programs of one sandbox reach the hosts on an allow-list. Owns what is let through.

The sandbox's own network stays empty. The worker opens a listening socket inside and passes it to the host, where the
proxy accepts connections on it. So nothing of ours runs inside, no file is shared, and a program that connects to the
socket reaches this proxy only. The proxy does not inspect what it carries: a program can send an allowed host
anything, and TLS stays encrypted.

A sandbox may be used from one event loop after another, so the proxies run in a thread of their own (`thread`).
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
"""The proxy's port on the loopback device of a sandbox."""
MAX_CONNECTIONS = 16
"""Connections of one sandbox at a time; each one holds two descriptors of this process."""
_LOOKUPS = 2
"""Names that are looked up at a time for one sandbox, so that slow lookups do not delay other sandboxes."""
_BETWEEN_S, _FULL_S = 0.005, 0.05
"""Pause after each connection, and while too many are open: a program that only connects costs this process little."""
_HEAD_S, _CONNECT_S, _ENDED_S = 10.0, 15.0, 5.0

Resolve = Callable[[str], Awaitable[Sequence[Address]]]


def proxy_variables(network: Network) -> dict[str, str]:
    """Environment variables that tell programs to use the proxy; none if the network is off."""
    if network.off:
        return {}
    named = {parse_entry(text).host for text in network.allow}
    direct = ",".join(host for host in ("localhost", "127.0.0.1", "::1") if host not in named)
    url = f"http://127.0.0.1:{PORT}"
    variables = {"http_proxy": url, "https_proxy": url, "all_proxy": url, "no_proxy": direct}
    return {**variables, **{name.upper(): value for name, value in variables.items()}}


async def resolve(host: str) -> list[Address]:
    """The addresses of a name, from this machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(row[4][0]) for row in found]


class Proxy:
    """Carries connections from one sandbox to the hosts on its allow-list, until it is closed.

    Args:
        listener: a listening socket that only the sandbox's programs can connect to; closed with the proxy.
        network: the allow-list and its limits.
        resolve: returns the addresses of a name.
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
        """Drop every connection and reset the count of bytes, for another episode."""
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._thread.loop.call_soon_threadsafe(self._drop)

    def close(self) -> None:
        """Stop listening and drop every connection; returns at once. May be called twice, and from any thread."""
        if self._closing.acquire(blocking=False):
            self._thread.loop.call_soon_threadsafe(self._end)

    async def ended(self) -> None:
        """Wait until nothing of it is left; call `close` first."""
        with contextlib.suppress(TimeoutError):  # a forked process has no such thread
            async with asyncio.timeout(_ENDED_S):
                await asyncio.shield(asyncio.wrap_future(self._ended))

    # The methods below run in the proxies' thread.

    def _end(self) -> None:
        self._ending = self._thread.loop.create_task(self._close())

    async def _close(self) -> None:
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
        """Accept the next connection when it comes; while too many are open, try again later."""
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
        with contextlib.suppress(OSError):  # the client is gone, or no descriptor is free at the moment
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            task = loop.create_task(self._attend(End(connection)))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._over, connection))

    def _over(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        connection.close()
        self._tasks.discard(task)

    async def _attend(self, client: End) -> None:
        """Serve one connection from inside the sandbox, from its first byte to its last."""
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
        except (OSError, EOFError):  # the client is gone, or was silent for too long
            pass

    async def _connect(self, target: Target) -> socket.socket:
        """A connection to a target on the list, at an address that was checked.

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
            return [target.address]  # the entry on the list is this address
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
    # The event loop's own text for a refused connection says less than the error number.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror or error)
