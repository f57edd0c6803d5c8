"""An HTTP client for tools: credentials from the environment, allowed hosts, retries, limits.

Owns one request, from its arguments to a reply or an error. `agentrl.tools.openapi` decides which requests
there are, `agentrl.tools.cassette` records them.

A request that cannot be written (a lone surrogate, an address that is too long, a header with a line break) and a
4xx answer are a `ToolError`, which the model reads. A failure of the network or the server and refused credentials
are an `EnvFault`. Some servers answer 500 to odd but valid input. So after a failure that the request itself may
have caused, a control request asks whether the server still answers others: see `HttpApi`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal
from urllib.parse import unquote

import httpx

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.http_settings import Auth, HttpSettings, api_key, basic, bearer
from agentrl.wire.control import Controls, Successes
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import REDACTED, Redactor
from agentrl.wire.reply import Reply, decode, reply_text
from agentrl.wire.request_text import body_bytes, header_text, is_header_text, is_unicode, writing
from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, retry_after_s, with_retries

__all__ = ["Auth", "HttpApi", "HttpSettings", "Reply", "Retry", "api_key", "basic", "bearer", "reply_text"]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
SAFE = frozenset({"GET", "HEAD"})
# The server refused the request before it did anything, so that even a POST can be sent again.
NOT_PROCESSED = frozenset({429, 503})
# Server errors that are about the request: the method is not implemented, the HTTP version is not supported.
NOT_RETRIED = frozenset({501, 505})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
ERROR_CHARS = 500
MOST_KEPT_URL_CHARS = 2_000
SECRETS_EXTENSION = "agentrl_secrets"
CONTROL_EXTENSION = "agentrl_control"


@dataclass(frozen=True, slots=True)
class _Call:
    """One request of a tool, without credentials, ready to be sent. `shape` is its path without the arguments."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes | None = None
    content_type: str = ""
    shape: str = ""

    @property
    def kind(self) -> tuple[str, str]:
        return self.method, self.shape

    def is_control(self) -> bool:
        """Whether it can serve as a control request: it changes nothing, and is small enough to be kept."""
        return self.method in SAFE and self.content is None and len(str(self.url)) <= MOST_KEPT_URL_CHARS

    def __str__(self) -> str:
        return f"{self.method} {self.url.copy_with(query=None, userinfo=b'')}"


@dataclass(frozen=True, slots=True)
class _Failure(Failed):
    """An attempt that failed. `suspect` says that the request itself may be the cause: a control request then helps."""

    who: Literal["server", "network"] = "server"
    status: int = 0
    not_processed: bool = False
    suspect: bool = True


@dataclass(slots=True, eq=False)
class _SharedClient:
    """A client that several requests use at the same time, and that closes after the last of them."""

    client: httpx.AsyncClient
    controls: Controls = field(default_factory=Controls)
    under_way: int = 0
    closing: bool = False


class HttpApi:
    """A client of one API, shared by all environments that use it.

    Each event loop gets its own connections. `aclose` closes those of the running loop, after the requests
    under way have ended. The client can be used again afterwards: one environment may close it while others
    continue. A client that is dropped closes its connections.

    After a 5xx, a timeout or a broken connection, one control request goes to the server: the last GET or HEAD of the
    same path that succeeded, else the last one of any path, else a GET of the base URL. `EnvFault.answers` says
    whether that succeeded, and is None for a 4xx, which proves nothing. If it succeeded and a request that may be
    repeated still gets a 5xx, in one more attempt, then the request is the cause, and the model reads so. A cassette
    in replay mode sends no control request.

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
        self._successes: Successes[_Call] = Successes()
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
        shape: str | None = None,
    ) -> Reply:
        """Send a request, and send it again if it failed and `settings.retry` allows that.

        Args:
            path: appended to the base URL; must be percent-encoded.
            params: query parameters, in order.
            headers: printable ASCII, without blanks at the ends.
            json: value of a JSON body; None sends no JSON body.
            form: fields of a urlencoded body.
            shape: the path without its arguments, such as `/items/{id}`; the path itself by default.
        Returns: an answer with a status below 400.
        Raises: ToolError for a request that cannot be written, a 4xx answer, a redirect, or a 5xx to this request
            alone; EnvFault if all attempts failed, or if the credentials are missing or refused.
        """
        with writing():
            url = self._address(path)
            url = url.copy_merge_params(list(params)) if params else url
            content, content_type = body_bytes(json, form)
            checked = {name: header_text(name, value) for name, value in (headers or {}).items()}
        call = _Call(method.upper(), url, checked, content, content_type, path if shape is None else shape)
        async with self._client() as shared:
            return await self._judged(shared, call, await self._retried(shared, call))

    async def aclose(self) -> None:
        """Close the running loop's connections after the requests under way; safe to call twice."""
        shared = self._clients.peek()
        if shared is not None:
            shared.closing = True
            await self._close_if_idle(shared)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[_SharedClient]:
        shared = self._clients.get()
        shared.under_way += 1
        try:
            yield shared
        finally:
            shared.under_way -= 1
            await self._close_if_idle(shared)

    async def _close_if_idle(self, shared: _SharedClient) -> None:
        if shared.closing and shared.under_way == 0 and self._clients.peek() is shared:
            self._clients.forget()
            await shared.client.aclose()

    def _address(self, path: str) -> httpx.URL:
        """The base URL with a path appended. A path cannot leave the base URL.

        Raises: ToolError for a segment `.` or `..`; httpx.InvalidURL.
        """
        if any(unquote(segment) in (".", "..") for segment in path.partition("?")[0].split("/")):
            raise ToolError("the address must not contain '.' or '..' as a part of its path")
        return httpx.URL(str(self.base_url).rstrip("/") + "/" + path.lstrip("/"))

    # Attempts.

    async def _retried(self, shared: _SharedClient, call: _Call) -> Reply:
        redactor = Redactor(self._secrets())
        failures: list[_Failure] = []

        async def attempt() -> Reply | _Failure:
            outcome = await self._outcome(shared.client, call, redactor)
            if isinstance(outcome, _Failure):
                failures.append(outcome)
                if not (outcome.not_processed or self._repeatable(call)):
                    raise NoMoreAttempts(outcome, len(failures), asked_too_long=False)
            return outcome

        try:
            return await with_retries(attempt, self.settings.retry, self._rng)
        except NoMoreAttempts as end:
            answers, succeeded = await self._control(shared, call, failures[-1])
            if succeeded and len(failures) > 1 and self._repeatable(call) and all(f.status >= 500 for f in failures):
                return await self._once_more(shared, call, redactor, len(failures))
            raise self._given_up(call, end, failures[-1], answers) from None

    def _repeatable(self, call: _Call) -> bool:
        return call.method in IDEMPOTENT or self.settings.retry.unsafe_methods

    async def _once_more(self, shared: _SharedClient, call: _Call, redactor: Redactor, failed: int) -> Reply:
        """The last attempt, right after the server answered a control request.

        Without it, a server that comes back just before the control request would look as if it refused this request.
        """
        outcome = await self._outcome(shared.client, call, redactor)
        if isinstance(outcome, Reply):
            return outcome
        if outcome.status >= 500:
            raise ToolError(
                f"the server failed on this request {failed + 1} times (status {outcome.status}), while it answers "
                "others: change the arguments"
            )
        message = f"{call} failed {failed + 1} times, last with {outcome.reason}"
        raise EnvFault(message, who=outcome.who)

    async def _outcome(self, client: httpx.AsyncClient, call: _Call, redactor: Redactor) -> Reply | _Failure:
        """One attempt: a reply, or a failure.

        Raises: ToolError if the request cannot be written, or is redirected where it must not go.
        """
        hops = [call]
        try:
            response, reply = await self._attempt(client, hops, redactor)
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ToolError(f"the request cannot be sent: {redactor.text(str(error))}") from None
        except (httpx.RequestError, TimeoutError) as error:
            refused = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            # A server that refuses a connection has not seen the request. One that a redirect names may be the
            # choice of the model.
            suspect = not refused or _origin(hops[-1].url) != _origin(call.url)
            reason = f"{type(error).__name__} {redactor.text(str(error))}".strip()
            who: Literal["server", "network"] = "server" if isinstance(error, httpx.DecodingError) else "network"
            return _Failure(reason, who=who, not_processed=refused, suspect=suspect)
        status = reply.status
        if is_retried(status):
            asked_s = retry_after_s(response.headers)
            not_processed = status in NOT_PROCESSED
            return _Failure(f"status {status}", asked_s, "server", status, not_processed, status >= 500)
        if call.is_control() and status < 400:
            self._successes.add(call.kind, call)
        return reply

    def _given_up(self, call: _Call, end: NoMoreAttempts, last: _Failure, answers: bool | None) -> EnvFault:
        if end.asked_too_long:
            most_s = self.settings.retry.longest_asked_s
            message = (
                f"{call}: the server asks to wait {end.last.asked_s:.0f} s, and at most {most_s:g} s are allowed; "
                "try again later, or raise Retry(max_asked_s=...)"
            )
        elif not (last.not_processed or self._repeatable(call)):
            message = f"{call} failed: {last.reason}; it may have been carried out, so it is not sent again"
        else:
            message = f"{call} failed {end.attempts} times, last with {end.last.reason}"
        return EnvFault(message, who=last.who, answers=answers)

    async def _control(self, shared: _SharedClient, call: _Call, failure: _Failure) -> tuple[bool | None, bool]:
        """Ask the server once whether it answers another request.

        Returns: whether it answers, None if it was not asked or its answer (4xx) proves nothing: a database behind it
            may be down. And whether the other request succeeded.
        """
        if not failure.suspect or getattr(self._transport, "offline", False):
            return None, False
        found = self._successes.nearest(call.kind)
        control = found if found is not None else _Call("GET", self.base_url, {})
        key = (control.method, str(control.url))
        status = await shared.controls.ask(key, time.monotonic(), lambda: self._status(shared.client, control))
        succeeded = 0 < status < 400
        return None if 400 <= status < 500 else succeeded, succeeded

    async def _status(self, client: httpx.AsyncClient, call: _Call) -> int:
        """The status of the answer to one request; 0 if there is none."""
        try:
            async with asyncio.timeout(self.settings.control_timeout_s):
                response = await client.send(self._authorized(client, call, {CONTROL_EXTENSION: True}), stream=True)
                await response.aclose()
        except (httpx.RequestError, TimeoutError):
            return 0
        return response.status_code

    async def _attempt(
        self, client: httpx.AsyncClient, hops: list[_Call], redactor: Redactor
    ) -> tuple[httpx.Response, Reply]:
        """Send the last of `hops`, and append the calls that redirects lead to."""
        async with asyncio.timeout(self.settings.timeout_s):
            while len(hops) <= MAX_REDIRECTS + 1:
                self._check_host(hops[-1])
                response, reply = await self._send(client, hops[-1], redactor)
                if reply.status not in REDIRECTS or "location" not in response.headers:
                    return response, reply
                hops.append(self._redirected(hops[-1], response))
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
        text = redactor.text(decode(content, content_type, response.charset_encoding))
        cut_off = len(content) > most
        return response, Reply(response.status_code, text[:most] if cut_off else text, content_type, cut_off)

    def _redirected(self, call: _Call, response: httpx.Response) -> _Call:
        target = call.url.join(response.headers["location"])
        if not self.settings.follow_redirects:
            raise ToolError(f"the server answered with a redirect to {target.host}, and redirects are off")
        if response.status_code in (307, 308) or call.method in ("GET", "HEAD"):
            return replace(call, url=target)
        return _Call("GET", target, call.headers)

    def _check_host(self, call: _Call) -> None:
        host = _host(call.url)
        if host in self._allowed or (call.url.port is None and call.url.host in self._allowed):
            return
        raise ToolError(f"host {host!r} is not allowed; allowed: {', '.join(sorted(self._allowed))}")

    # Credentials.

    def _authorized(
        self, client: httpx.AsyncClient, call: _Call, extensions: Mapping[str, Any] | None = None
    ) -> httpx.Request:
        url, headers = call.url, {"Accept-Encoding": "identity", **self.settings.headers, **call.headers}
        same_origin = _origin(url) == _origin(self.base_url)
        secrets = self._secrets() if same_origin else ()
        for auth in self.auth if same_origin else ():
            if auth.kind == "query":
                url = url.copy_set_param(auth.name, self._value(auth.variables[0]))
            else:
                headers[auth.name] = self._header(auth)
        given = {SECRETS_EXTENSION: secrets, **(extensions or {})}
        request = client.build_request(call.method, url, headers=headers, content=call.content, extensions=given)
        if call.content_type:
            request.headers.setdefault("Content-Type", call.content_type)
        return request

    def _header(self, auth: Auth) -> str:
        values = [self._value(variable) for variable in auth.variables]
        if auth.kind == "basic":
            return "Basic " + base64.b64encode(":".join(values).encode()).decode()
        if not is_header_text(values[0]):
            raise EnvFault(
                f"environment variable {auth.variables[0]} cannot be sent as a header: it must be printable ASCII "
                "without blanks or line breaks at its ends",
                who="author",
            )
        return f"Bearer {values[0]}" if auth.kind == "bearer" else values[0]

    def _secrets(self) -> tuple[str, ...]:
        values = [tuple(self._value(variable) for variable in auth.variables) for auth in self.auth]
        joined = [":".join(pair) for pair in values if len(pair) > 1]
        # A user name is not a secret. The password is, and so are both joined.
        return tuple(value for value in [*(pair[-1] for pair in values), *joined] if value != REDACTED)

    def _value(self, variable: str) -> str:
        value = os.environ.get(variable, "")
        if not value and getattr(self._transport, "offline", False):
            return str(REDACTED)  # a replay needs no credentials
        if not value:
            raise EnvFault(
                f"environment variable {variable} is not set: it holds the credentials of {self.base_url.host}",
                who="author",
            )
        if not is_unicode(value):
            raise EnvFault(f"environment variable {variable} holds bytes that are not UTF-8", who="author")
        return value

    async def _judged(self, shared: _SharedClient, call: _Call, reply: Reply) -> Reply:
        if reply.status < 400:
            return reply
        if reply.status == 401 and self.auth and not await self._credentials_work(shared, call):
            variables = ", ".join(variable for auth in self.auth for variable in auth.variables)
            raise EnvFault(f"{call}: the server refused the credentials (401); check {variables}", who="author")
        raise ToolError(f"status {reply.status}: {reply.text[:ERROR_CHARS] or 'no reason given'}")

    async def _credentials_work(self, shared: _SharedClient, call: _Call) -> bool:
        """Whether a request that succeeded before succeeds again; the 401 is then about the arguments of this one."""
        if self._successes.nearest(call.kind) is None:
            return False
        if getattr(self._transport, "offline", False):
            return True
        _, succeeded = await self._control(shared, call, _Failure("status 401"))
        return succeeded


def is_retried(status: int) -> bool:
    """Whether a request with this answer is sent again: 408, 429 and 5xx."""
    return status in (408, 429) or (status >= 500 and status not in NOT_RETRIED)


def _open(transport: httpx.AsyncBaseTransport | None) -> _SharedClient:
    # httpx's own timeouts are off: each attempt has one deadline, which includes waiting for a connection.
    # Cookies are off: they would carry the session of one episode into another.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return _SharedClient(httpx.AsyncClient(transport=transport, cookies=cookies, timeout=None))


async def _close(shared: _SharedClient) -> None:
    await shared.client.aclose()


def _host(url: httpx.URL) -> str:
    """`host`, or `host:port` if the port is not the scheme's default."""
    return url.host if url.port is None else f"{url.host}:{url.port}"


def _origin(url: httpx.URL) -> tuple[str, str]:
    return url.scheme, _host(url)
