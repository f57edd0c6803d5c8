"""Who may ask: a browser or program on this machine that has the token, and no page of somebody else.

Owns the token, the names under which the page may be asked, and the headers that keep a hostile transcript inert. It
does not encrypt, and it does not keep out other programs of the same user.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_SAFE = ("GET", "HEAD")
_MOST_BYTES = 1 << 20
_BODY_S = 30.0
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Stands before an ASGI application and lets through what belongs here.

    Args:
        app: what is guarded.
        token: that a request must carry: in the address of its first visit, which sets a cookie, or as a bearer token.
        port: at which the page is served; cookies do not tell ports apart, so it is part of the cookie's name.
        once: stands for the token at one first visit: other users can read the arguments of a browser's process.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, once: str = "") -> None:
        self.app, self._token, self._once = app, token, once
        self._cookie = f"agentrl_view_{port}"
        self._hosts = frozenset(f"{name}:{port}" for name in _LOOPBACK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket is served
            return
        headers = Headers(scope=scope)
        refused = self._refusal(scope, headers)
        more = dict(_HEADERS)
        if refused is None and self._visited(scope):
            more["set-cookie"] = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        elif refused is None and not self._has_token(headers):
            refused = _error(401, "the address needs its token: open the one that `agentrl view` printed")
        await (refused or self._bounded)(scope, receive, _with_headers(send, more))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """What is refused whoever asks: other names for this machine, and other origins."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if host.lower() not in self._hosts:
            return _error(421, f"the page is served as {' or '.join(sorted(self._hosts))} alone")
        if origin is not None and origin.lower() not in {f"http://{name}" for name in self._hosts}:
            return _error(403, "a page of another origin may not ask")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and scope["path"] != "/":
            return _error(403, "a page of another site may not ask")  # but a link there may lead to the page
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] not in _SAFE and kind != "application/json":  # other types need no permission of a browser
            return _error(415, "the body must be of type application/json")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _MOST_BYTES:
            return _error(413, f"the body is larger than {_MOST_BYTES >> 20} MiB")
        return None

    def _is_first(self, given: str) -> bool:
        if not self._once or not secrets.compare_digest(given.encode(), self._once.encode()):
            return False
        self._once = ""
        return True

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _visited(self, scope: Scope) -> bool:
        """Whether the address holds the token, which the application does not get to see."""
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in asked if name == "token"]
        if not given or not (self._is_token(given[0]) or self._is_first(given[0])):
            return False
        scope["query_string"] = urlencode([(n, v) for n, v in asked if n != "token"]).encode()
        return True

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, is_whole = 0, False
        until = asyncio.get_running_loop().time() + _BODY_S

        async def bounded() -> Message:
            nonlocal read, is_whole
            if is_whole:  # what comes now is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            read += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return message if read <= _MOST_BYTES else {"type": "http.disconnect"}

        await self.app(scope, bounded, send)


def _with_headers(send: Send, more: Mapping[str, str]) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(more)
        await send(message)

    return sent


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, {"connection": "close"})
