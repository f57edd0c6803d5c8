"""The proxy on an address of this machine, on the event loop of its caller. Owns the socket and its limits."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Self

from agentrl.serving.capture.app import PING_S, Proxy
from agentrl.serving.listener import ReadyServer, config_of, listening

_MOST_CONNECTIONS = 4096
_GRACE_S = 2


class CaptureServer:
    """Serves sessions; an asynchronous context manager.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        ping_s: as in `Proxy`.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, ping_s: float = PING_S) -> None:
        shown = f"[{host}]" if ":" in host else host
        self.proxy = Proxy(["localhost", "127.0.0.1", "[::1]", shown], ping_s=ping_s)
        self._host, self._port, self._shown = host, port, shown

    async def __aenter__(self) -> Self:
        """Raises: ConfigError if the address is taken."""
        self._socket = listening(self._host, self._port)
        self.url = f"http://{self._shown}:{self._socket.getsockname()[1]}"
        config = config_of(self.proxy.app, _GRACE_S, _MOST_CONNECTIONS)
        ready = asyncio.Event()
        self._server = _Guest(config, ready.set)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        await ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        with suppress(asyncio.CancelledError):
            await self._serving
        self._socket.close()


class _Guest(ReadyServer):
    """A server on somebody else's event loop, which leaves the signals to the program."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()
