"""The endpoint on an address of this machine. Owns who may reach it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from agentrl.errors import ConfigError
from agentrl.serving.app import make_app
from agentrl.serving.chat_model import ChatModel
from agentrl.serving.listener import answer_requests, listening

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
    with listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}/v1"
        app = make_app(model, key=key, hosts=[*_LOCAL, shown])
        answer_requests(app, listener, on_ready=lambda: on_ready(url), grace_s=_GRACE_S)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
