"""An HTTP client for tools: credentials from the environment, allowed hosts, retries, limits.

Owns one request, from its arguments to a reply or an error. `agentrl.tools.openapi` decides which requests
there are, `agentrl.tools.cassette` records them. A 4xx answer is a `ToolError`, which the model reads. A failure
that the model cannot correct (network, 5xx, credentials) is an `EnvFault`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.http_settings import Auth, HttpSettings, api_key, basic, bearer
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import REDACTED, Redactor
from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, retry_after_s, with_retries

__all__ = ["Auth", "HttpApi", "HttpSettings", "Reply", "Retry", "api_key", "basic", "bearer", "reply_text"]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
# The server refused the request before it did anything, so that even a POST can be sent again.
NOT_PROCESSED = frozenset({429, 503})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
ERROR_CHARS = 500
SECRETS_EXTENSION = "agentrl_secrets"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a server.

    Attributes:
        status: HTTP status.
        text: the body without secrets; its beginning if `cut_off`.
        content_type: without parameters, in lower case.
        cut_off: whether the body is longer than `HttpSettings.max_response_bytes`.
    """

    status: int
    text: str
    content_type: str = ""
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    """One request of a tool, without credentials."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    json: Any = None
    form: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.url.copy_with(query=None, userinfo=b'')}"


@dataclass(slots=True, eq=False)
class _SharedClient:
    """A client that several requests use at the same time, and that closes after the last of them."""

    client: httpx.AsyncClient
    under_way: int = 0
    closing: bool = False


class HttpApi:
    """A client of one API, shared by all environments that use it.

    Each event loop gets its own connections. `aclose` closes those of the running loop, after the requests
    under way have ended. The client can be used again afterwards: one environment may close it while others
    continue. A client that is dropped closes its connections.

    Args:
        base_url: prefix of every path.
        allow_hosts: hosts that may be reached, as `host` (ports 80 and 443) or `host:port`; by default only
            the host of the base URL.
        auth: credentials; they are sent only to the origin of the base URL.
        settings: timeouts, retries and limits.
        transport: an httpx transport that works in any event loop, such as a `Cassette`.
        rng: draws the jitter of the waits between retries.
    """

    def __init__(
        self,
        base_url: str,
        *,
        allow_hosts: Sequence[str] | None = None,
        auth: Auth | Sequence[Auth] | None = None,
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.base_url = httpx.URL(base_url)
        if self.base_url.scheme not in ("http", "https") or not self.base_url.host:
            raise ValueError(f"base_url must be a http or https address, got {base_url!r}")
        self.settings = settings or HttpSettings()
        self.auth = (auth,) if isinstance(auth, Auth) else tuple(auth or ())
        self._allowed = frozenset(allow_hosts) if allow_hosts is not None else frozenset({_host(self.base_url)})
        self._transport = transport
        self._rng = rng or random.Random()
        # Only `aclose` closes a transport that was passed in: others may use it too.
        self._clients = PerLoop(partial(_open, transport), aclose=None if transport else _close)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request, and send it again if it failed and `settings.retry` allows that.

        Args:
            path: appended to the base URL; must be percent-encoded.
            params: query parameters, in order.
            json: value of a JSON body; None sends no JSON body.
            form: fields of a urlencoded body.
        Returns: an answer with a status below 400.
        Raises: ToolError for a 4xx answer or a redirect; EnvFault if all attempts failed.
        """
        url = httpx.URL(str(self.base_url).rstrip("/") + "/" + path.lstrip("/"))
        call = _Call(method.upper(), url.copy_merge_params(list(params)) if params else url, headers or {}, json, form)
        async with self._client() as client:
            return self._judge(call, await self._retried(client, call))

    async def aclose(self) -> None:
        """Close the running loop's connections after the requests under way; safe to call twice."""
        shared = self._clients.peek()
        if shared is not None:
            shared.closing = True
            await self._close_if_idle(shared)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        shared = self._clients.get()
        shared.under_way += 1
        try:
            yield shared.client
        finally:
            shared.under_way -= 1
            await self._close_if_idle(shared)

    async def _close_if_idle(self, shared: _SharedClient) -> None:
        if shared.closing and shared.under_way == 0 and self._clients.peek() is shared:
            self._clients.forget()
            await shared.client.aclose()

    async def _retried(self, client: httpx.AsyncClient, call: _Call) -> Reply:
        redactor = Redactor(self._secrets())
        try:
            return await with_retries(lambda: self._outcome(client, call, redactor), self.settings.retry, self._rng)
        except NoMoreAttempts as end:
            raise self._given_up(call, end) from None

    async def _outcome(self, client: httpx.AsyncClient, call: _Call, redactor: Redactor) -> Reply | Failed:
        """One attempt: a reply, or a failure after which the request may be sent again.

        Raises: EnvFault if the request failed and must not be sent again.
        """
        try:
            response, reply = await self._attempt(client, call, redactor)
        except (httpx.TransportError, TimeoutError) as error:
            failed = Failed(f"{type(error).__name__} {redactor.text(str(error))}".strip())
            not_processed = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        else:
            if reply.status not in RETRIED:
                return reply
            failed = Failed(f"status {reply.status}", retry_after_s(response.headers))
            not_processed = reply.status in NOT_PROCESSED
        if not_processed or self.settings.retry.unsafe_methods or call.method in IDEMPOTENT:
            return failed
        raise EnvFault(f"{call} failed: {failed.reason}; it may have been carried out, so it is not sent again")

    def _given_up(self, call: _Call, end: NoMoreAttempts) -> EnvFault:
        if end.asked_too_long:
            most_s = self.settings.retry.longest_asked_s
            return EnvFault(
                f"{call}: the server asks to wait {end.last.asked_s:.0f} s, and at most {most_s:g} s are allowed; "
                "try again later, or raise Retry(max_asked_s=...)"
            )
        return EnvFault(f"{call} failed {end.attempts} times, last with {end.last.reason}")

    async def _attempt(
        self, client: httpx.AsyncClient, call: _Call, redactor: Redactor
    ) -> tuple[httpx.Response, Reply]:
        async with asyncio.timeout(self.settings.timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                self._check_host(call)
                response, reply = await self._send(client, call, redactor)
                if reply.status not in REDIRECTS or "location" not in response.headers:
                    return response, reply
                call = self._redirected(call, response)
        raise ToolError(f"more than {MAX_REDIRECTS} redirects")

    async def _send(self, client: httpx.AsyncClient, call: _Call, redactor: Redactor) -> tuple[httpx.Response, Reply]:
        request = self._authorized(client, call)
        response = await client.send(request, stream=True)
        content, most = b"", self.settings.max_response_bytes
        try:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > most:
                    break
        finally:
            await response.aclose()
        content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
        text = redactor.text(_decode(content, content_type, response.charset_encoding))
        cut_off = len(content) > most
        return response, Reply(response.status_code, text[:most] if cut_off else text, content_type, cut_off)

    def _redirected(self, call: _Call, response: httpx.Response) -> _Call:
        target = call.url.join(response.headers["location"])
        if not self.settings.follow_redirects:
            raise ToolError(f"the server answered with a redirect to {target.host}, and redirects are off")
        if response.status_code in (307, 308) or call.method in ("GET", "HEAD"):
            return _Call(call.method, target, call.headers, call.json, call.form)
        return _Call("GET", target, call.headers)

    def _check_host(self, call: _Call) -> None:
        host = _host(call.url)
        if host in self._allowed or (call.url.port is None and call.url.host in self._allowed):
            return
        raise ToolError(f"host {host!r} is not allowed; allowed: {', '.join(sorted(self._allowed))}")

    # Credentials.

    def _authorized(self, client: httpx.AsyncClient, call: _Call) -> httpx.Request:
        url, headers = call.url, {"Accept-Encoding": "identity", **self.settings.headers, **call.headers}
        same_origin = (url.scheme, _host(url)) == (self.base_url.scheme, _host(self.base_url))
        secrets = self._secrets() if same_origin else ()
        for auth in self.auth if same_origin else ():
            if auth.kind == "query":
                url = url.copy_set_param(auth.name, self._value(auth.variables[0]))
            else:
                headers[auth.name] = self._header(auth)
        return client.build_request(
            call.method, url, headers=headers, json=call.json, data=call.form, extensions={SECRETS_EXTENSION: secrets}
        )

    def _header(self, auth: Auth) -> str:
        values = [self._value(variable) for variable in auth.variables]
        if auth.kind == "bearer":
            return f"Bearer {values[0]}"
        if auth.kind == "basic":
            return "Basic " + base64.b64encode(":".join(values).encode()).decode()
        return values[0]

    def _secrets(self) -> tuple[str, ...]:
        values = [tuple(self._value(variable) for variable in auth.variables) for auth in self.auth]
        joined = [":".join(pair) for pair in values if len(pair) > 1]
        # A user name is not a secret. The password is, and so are both joined.
        return tuple(value for value in [*(pair[-1] for pair in values), *joined] if value != REDACTED)

    def _value(self, variable: str) -> str:
        value = os.environ.get(variable, "")
        if value:
            return value
        if getattr(self._transport, "offline", False):
            return str(REDACTED)  # a replay needs no credentials
        raise EnvFault(f"environment variable {variable} is not set: it holds the credentials of {self.base_url.host}")

    def _judge(self, call: _Call, reply: Reply) -> Reply:
        if reply.status < 400:
            return reply
        if reply.status == 401 and self.auth:
            variables = ", ".join(variable for auth in self.auth for variable in auth.variables)
            raise EnvFault(f"{call}: the server refused the credentials (401); check {variables}")
        raise ToolError(f"status {reply.status}: {reply.text[:ERROR_CHARS] or 'no reason given'}")


def _open(transport: httpx.AsyncBaseTransport | None) -> _SharedClient:
    # httpx's own timeouts are off: each attempt has one deadline, which includes waiting for a connection.
    # Cookies are off: they would carry the session of one episode into another.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return _SharedClient(httpx.AsyncClient(transport=transport, cookies=cookies, timeout=None))


async def _close(shared: _SharedClient) -> None:
    await shared.client.aclose()


def reply_text(reply: Reply) -> str:
    """An answer as the model reads it: JSON in compact form, other text unchanged."""
    if reply.cut_off:
        return f"{reply.text} [cut off]"
    if not reply.text:
        return "ok"
    if reply.content_type == "application/json" or reply.content_type.endswith("+json"):
        try:
            return json.dumps(json.loads(reply.text), ensure_ascii=False, separators=(",", ":"))
        except ValueError:
            return reply.text
    return reply.text


def _host(url: httpx.URL) -> str:
    """`host`, or `host:port` if the port is not the scheme's default."""
    return url.host if url.port is None else f"{url.host}:{url.port}"


def _decode(content: bytes, content_type: str, charset: str | None) -> str:
    kind = content_type.split("/")[0]
    if kind in ("image", "audio", "video") or content_type in ("application/octet-stream", "application/pdf"):
        return f"<{content_type}, {len(content)} bytes>"
    try:
        return content.decode(charset or "utf-8", errors="replace")
    except LookupError:
        return content.decode("utf-8", errors="replace")
