"""Who may ask a server of environments: programs that have the token, and no web page.

Owns the token, the names under which the server may be asked, and the sizes of bodies. It does not encrypt: put a proxy
with TLS before a server on a network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentrl.serving.envs.wire import MOST_BYTES

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_BODY_S = 30.0
_OPEN = ("/health",)


class Refused(Exception):
    """A request that is not let through.

    Args:
        status: of HTTP.
        message: why, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gate:
    """The rules.

    Args:
        token: that every request carries, as a bearer token; empty asks for none.
        hosts: names under which the server may be asked; `*` allows all.
        capabilities: paths below these hold a secret of their own in place of the token.
    """

    def __init__(self, token: str, hosts: Sequence[str] = LOOPBACK, capabilities: Sequence[str] = ()) -> None:
        self._token = token.encode()
        self._hosts = frozenset(name.lower() for name in hosts)
        self._capabilities = tuple(capabilities)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raises: Refused."""
        name = _without_port(headers.get("host", "").lower())
        if "*" not in self._hosts and name not in self._hosts:
            raise Refused(421, f"this server is asked as {' or '.join(sorted(self._hosts))} alone (--allow-host)")
        origin = headers.get("origin")
        if origin is not None and _without_port(origin.lower().partition("://")[2]) not in self._hosts:
            raise Refused(403, "a web page of another origin may not ask")
        if not self._token or scope["path"] in _OPEN or scope["path"].startswith(self._capabilities):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = secrets.compare_digest(given.strip().encode(), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Refused(401, "send the server's token as `Authorization: Bearer TOKEN`")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guarded:
    """Stands before an ASGI application: asks the gate, and bounds what is read.

    Args:
        app: what is guarded.
        gate: the rules.
        body_s: seconds in which a body must have come.
    """

    def __init__(self, app: ASGIApp, gate: Gate, body_s: float = _BODY_S) -> None:
        self._app, self._gate, self._body_s = app, gate, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._gate.check(scope, headers)
            _check_body(scope, headers)
        except Refused as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:100]})
            else:
                refusal = JSONResponse({"error": str(error)}, error.status, {"connection": "close"})
                await refusal(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive, self._body_s) if scope["type"] == "http" else receive, send)


def _check_body(scope: Scope, headers: Headers) -> None:
    if scope["type"] != "http":
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BYTES:
        raise Refused(413, f"the body is larger than {MOST_BYTES >> 20} MiB")
    has_body = length != "0" or "transfer-encoding" in headers
    if scope["method"] not in ("GET", "HEAD", "DELETE") and has_body and kind != "application/json":
        raise Refused(415, f"the body must be of type application/json, got {kind or 'none'}")


class _Bounded:
    """`receive`, with a deadline for the body and a bound on its size."""

    def __init__(self, receive: Receive, body_s: float) -> None:
        self._receive, self._left_s, self._read, self._is_whole = receive, body_s, 0, False

    async def __call__(self) -> Message:
        if self._is_whole:  # what comes now is that the client has gone
            return await self._receive()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            message: Any = await asyncio.wait_for(self._receive(), self._left_s)
        except TimeoutError:
            return {"type": "http.disconnect"}
        self._left_s = max(0.0, self._left_s - (loop.time() - began))
        self._read += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        return message if self._read <= MOST_BYTES else {"type": "http.disconnect"}
