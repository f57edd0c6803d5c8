"""An application on an address of this machine: the socket, and a clean end. Owns no application."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from agentrl.errors import ConfigError


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
    # At the end the server raises the signal again; the default answer to SIGTERM would skip every `finally`.
    signal.signal(signal.SIGTERM, _interrupt)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=grace_s)
    asyncio.run(ReadyServer(config, on_ready).serve(sockets=[listener]))


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
