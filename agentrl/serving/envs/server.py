"""An environment on an address of this machine, through every door. Owns who may reach it and how the server ends."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.routing import BaseRoute

from agentrl.errors import ConfigError
from agentrl.serving.envs.app import make_app
from agentrl.serving.envs.connection import protocol_of
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.guard import LOOPBACK, Gate, is_loopback
from agentrl.serving.envs.openenv_door import OpenEnvDoor
from agentrl.serving.envs.sessions import Bounds, Sessions
from agentrl.serving.envs.wire import MOST_BYTES
from agentrl.serving.listener import HEAD_S, KEEP_ALIVE_S, ReadyServer, answer_requests_of, listening
from agentrl.trajectory import EnvRef

_GRACE_S = 5
_MORE_CONNECTIONS = 64
CAPABILITIES = ("/e/",)


@dataclass(frozen=True)
class ServeOptions:
    """How an environment is served.

    Attributes:
        host, port: to listen on; port 0 takes a free one.
        token: that clients send; None makes one, and empty asks for none, which loopback alone may do.
        hosts: further names under which the server may be asked.
        bounds: of sessions.
        demonstrates: clients may ask the oracle.
        takes_any_task: clients may send tasks that are not the environment's own.
        request_s: seconds in which the head of a request must have come.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    hosts: Sequence[str] = ()
    bounds: Bounds = field(default_factory=Bounds)
    demonstrates: bool = True
    takes_any_task: bool = False
    request_s: float = HEAD_S


class EnvServer:
    """A server of one environment: `serve` answers in this thread, `with` answers in a thread of its own.

    Args:
        ref: of the environment.
        options: how it is served.
    Attributes:
        url, token: for clients.
    Raises: ConfigError if the address cannot be used, or would be open to all; what making the environment raises.
    """

    def __init__(self, ref: EnvRef, options: ServeOptions = ServeOptions()) -> None:
        host = options.host
        self.token = secrets.token_urlsafe(24) if options.token is None else options.token
        if not self.token and not is_loopback(host):
            raise ConfigError(f"{host} can be reached from other machines: give a token, or use 127.0.0.1")
        longest_s = options.bounds.episode_s
        self.served = Served(ref, longest_s=longest_s, demonstrates=options.demonstrates)
        self.sessions = Sessions(self.served.make, options.bounds, takes_any_task=options.takes_any_task)
        self._listener = listening(host, options.port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._listener.getsockname()[1]}"
        self._doors: list[Any] = []
        gate = Gate(self.token, (*LOOPBACK, shown, *options.hosts), CAPABILITIES)
        self._config = uvicorn.Config(
            make_app(self.served, gate, self._more_doors()),
            http=protocol_of(self.sessions, gate, self.served.ref.version, options.request_s),
            log_config=None,
            access_log=False,
            limit_concurrency=options.bounds.sessions + _MORE_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            lifespan="off",
            ws_max_size=MOST_BYTES,
            ws_ping_interval=None,
        )
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def _more_doors(self) -> list[BaseRoute]:
        """Routes of the doors whose packages are installed."""
        found: list[BaseRoute] = []
        self._doors.append(OpenEnvDoor(self.served, self.sessions))
        if find_spec("mcp") is not None and find_spec("mcp_types") is not None:
            from agentrl.serving.mcp.door import McpDoor

            self._doors.insert(0, McpDoor(self.served.ref.id, self.sessions))
        for door in self._doors:
            found += door.routes()
        return found

    def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Answer until Ctrl-C or SIGTERM, either of which raises KeyboardInterrupt at the end. Main thread only."""
        with self._listener:
            answer_requests_of(self._config, self._listener, on_ready=on_ready, at_end=self._aclose)

    async def _aclose(self) -> None:
        for door in self._doors:
            await door.aclose()
        await self.sessions.aclose()
        await self.served.aclose()

    # In a thread.

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True, name="env-server")
        self._thread.start()
        if not ready.wait(30):
            raise ConfigError("the server did not begin within 30 s")
        return self

    def _run(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._server = ReadyServer(self._config, ready.set)
            try:
                await self._server.serve(sockets=[self._listener])
            finally:
                await self._aclose()

        asyncio.run(main())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End a server that answers in a thread: sessions are closed."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_GRACE_S + 5)
        self._listener.close()
