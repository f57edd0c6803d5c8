"""The endpoint on an address of this machine. Owns the socket, and a clean end."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from agentrl.errors import ConfigError
from agentrl.serving.app import make_app
from agentrl.serving.chat_model import ChatModel

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_GRACE_S = 5


def serve(
    model: ChatModel,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str = "",
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until Ctrl-C or SIGTERM; answers in progress then have five seconds.

    Args:
        model: answers.
        host: address to listen on; one that other machines reach needs a key.
        port: 0 takes a free one.
        key: that clients send.
        on_ready: called with the base URL when requests are accepted.
    Raises: ConfigError if the address cannot be used, or would be open to all.
    """
    if not key and not _is_loopback(host):
        raise ConfigError(f"{host} can be reached from other machines: set a key (--api-key-env), or use 127.0.0.1")
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}/v1"
        app = make_app(model, key=key, hosts=[*_LOCAL, shown])
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE_S)
        server = _Server(config, lambda: on_ready(url))
        asyncio.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error
