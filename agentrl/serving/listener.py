"""An application on an address of this machine: the socket, what a slow client may hold, and a clean end.

Owns no application. The deadline of a body belongs to the application that reads it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, NoReturn

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentrl.errors import ConfigError

HEAD_S = 10.0
"""Seconds in which the head of a request must have come."""
KEEP_ALIVE_S = 75
"""More than clients keep an idle connection (httpx 5 s, aiohttp 15 s): otherwise a request can meet its end."""
_MOST_CONNECTIONS = 512


def patient(head_s: float) -> type[H11Protocol]:
    """uvicorn's HTTP, which hangs up on a connection whose next head does not come.

    Args: head_s: seconds for the first head of a connection from its beginning, and for others from their first byte.
    """

    class Patient(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and self.cycle is not None and self.cycle.response_complete:
                self._expect_head()
            super().data_received(data)
            if self.conn.our_state is not h11.IDLE:
                self._forget_deadline()

        def _expect_head(self) -> None:
            self._deadline = self.loop.call_later(head_s, self.transport.close)

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_deadline()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._forget_deadline()
            super().handle_websocket_upgrade(event)

    return Patient


def config_of(app: ASGIApp, grace_s: int, connections: int = _MOST_CONNECTIONS) -> uvicorn.Config:
    """How an application for a few clients is served.

    Args:
        grace_s: seconds for answers in progress at the end.
        connections: most at the same time.
    """
    return uvicorn.Config(
        app,
        http=patient(HEAD_S),
        log_config=None,
        access_log=False,
        limit_concurrency=connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; port 0 takes a free one. Raises: ConfigError if the address is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error


def answer_requests(app: ASGIApp, listener: socket.socket, *, on_ready: Callable[[], None], grace_s: int) -> None:
    """Answer requests until Ctrl-C or SIGTERM, either of which raises KeyboardInterrupt at the end. Main thread only.

    Args:
        listener: of `listening`.
        on_ready: called when requests are accepted.
        grace_s: seconds that answers in progress then have.
    """
    answer_requests_of(config_of(app, grace_s), listener, on_ready=on_ready)


async def _nothing() -> None:
    pass


def answer_requests_of(
    config: uvicorn.Config,
    listener: socket.socket,
    *,
    on_ready: Callable[[], None],
    at_end: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """`answer_requests`, for a configuration of one's own.

    Args: at_end: awaited in the same event loop, after the last answer.
    """

    async def main() -> None:
        try:
            await ReadyServer(config, on_ready).serve(sockets=[listener])
        finally:
            await at_end()

    # At the end the server raises the signal again; the default answer to SIGTERM would skip every `finally`.
    signal.signal(signal.SIGTERM, _interrupt)
    asyncio.run(main())


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class ReadyServer(uvicorn.Server):
    """uvicorn's server, which says when it accepts requests."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
