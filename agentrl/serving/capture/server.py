"""The proxy on an address of this machine, on the event loop of its caller. Owns the socket and its limits."""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentrl.serving.capture.app import PING_S, Proxy
from agentrl.serving.listener import ReadyServer, listening

_MOST_CONNECTIONS = 4096
_SILENT_S = 60.0
"""More than clients keep an idle connection (httpx 5 s, aiohttp 15 s): otherwise a request can meet its end."""
_GRACE_S = 2
_BUSY = object()


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
        config = uvicorn.Config(
            self.proxy.app,
            http=_Impatient,
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=math.ceil(_SILENT_S),
            timeout_graceful_shutdown=_GRACE_S,
        )
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


class _Impatient(H11Protocol):
    """Closes a connection that has sent no whole request for a while: a slow one holds a place, too."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen: object = _BUSY
        self._timer = self.loop.call_later(_SILENT_S / 2, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        cycle = self.cycle
        seen, self._seen = self._seen, cycle if cycle is None or cycle.response_complete else _BUSY
        if self._seen is seen is not _BUSY:  # no request has begun since the last look, and none goes on
            self.transport.close()
            return
        self._timer = self.loop.call_later(_SILENT_S / 2, self._look)
