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
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal
from urllib.parse import unquote

import httpx

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.http_credentials import UNRECORDED_EXTENSION, Credentials
from agentrl.tools.http_session import add_cookie, attach, hidden_forms, in_path, session_of, session_value
from agentrl.tools.http_settings import Auth, HttpSettings, Session, api_key, basic, bearer, is_retried, oauth2
from agentrl.wire.control import Controls, Successes
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import Redactor
from agentrl.wire.reply import Reply, decode, read_bounded, reply_text
from agentrl.wire.request_text import body_bytes, header_text, writing
from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, retry_after_s, with_retries

__all__ = [
    "Auth",
    "Draft",
    "HttpApi",
    "HttpSettings",
    "Reply",
    "Retry",
    "Session",
    "api_key",
    "basic",
    "bearer",
    "oauth2",
    "reply_text",
]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
SAFE = frozenset({"GET", "HEAD"})
# The server refused the request before it did anything, so that even a POST can be sent again.
NOT_PROCESSED = frozenset({429, 503})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
ERROR_CHARS = 500
MOST_KEPT_URL_CHARS = 2_000
# Read beyond `max_response_bytes`, so that a secret at the limit is hidden as a whole before the cut.
SECRET_BYTES, LONGEST_CHARACTER = 16_000, 4
SECRETS_EXTENSION = "agentrl_secrets"
MOST_BYTES_EXTENSION = "agentrl_most_bytes"


@dataclass(frozen=True, slots=True)
class Draft:
    """A request before the address of its server, session and credentials are added.

    Attributes:
        path: percent-encoded.
        query: percent-encoded, without `?`.
        shape: the path without its arguments, such as `/items/{id}`.
        server: of this request; the base URL where it is None.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    content_type: str = ""
    shape: str = ""
    server: str | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """One request of a tool, without credentials, ready to be sent. `shape` is its path without the arguments."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes | None = None
    content_type: str = ""
    shape: str = ""
    cookies: tuple[tuple[str, str], ...] = ()

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
        auth: credentials; they are sent only to the origin of the base URL and of `servers`.
        session: a value of the episode that goes into every request; a text names a header.
        servers: further servers, which a `Draft` may name. Their hosts may be reached.
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
        session: Session | str | None = None,
        servers: Sequence[str] = (),
        settings: HttpSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.base_url = httpx.URL(base_url)
        if self.base_url.scheme not in ("http", "https") or not self.base_url.host:
            raise ValueError(f"base_url must be a http or https address, got {base_url!r}")
        self._base = base_url
        self.settings = settings or HttpSettings()
        self.auth = (auth,) if isinstance(auth, Auth) else tuple(auth or ())
        self.session = session_of(session)
        own = [self.base_url, *map(httpx.URL, servers)]
        self._origins = frozenset(map(_origin, own))
        given = [_host(self.base_url)] if allow_hosts is None else allow_hosts
        self._allowed = frozenset([*given, *map(_host, own[1:])])
        # Called before each request; it begins an episode on the server.
        self.opening: Callable[[], Awaitable[None]] | None = None
        self._transport = transport
        self.offline = bool(getattr(transport, "offline", False))
        self._rng = rng or random.Random()
        self._credentials = Credentials(
            self.auth, self.base_url.host, offline=self.offline, settings=self.settings, rng=self._rng
        )
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
            query = str(httpx.QueryParams(list(params))) if params else ""
            content, content_type = body_bytes(json, form)
            checked = {name: header_text(name, value) for name, value in (headers or {}).items()}
        shape = path if shape is None else shape
        return await self.send(Draft(method.upper(), path, query, checked, (), content, content_type, shape))

    async def send(self, draft: Draft) -> Reply:
        """Send a request that is written already. Returns and raises: as `request`."""
        if self.opening is not None:
            await self.opening()
        return await self.send_now(draft)

    async def send_now(self, draft: Draft) -> Reply:
        """`send` without `opening`."""
        with writing():
            url = self._address(draft)
        call = _Call(
            draft.method, url, draft.headers, draft.content, draft.content_type, draft.shape, tuple(draft.cookies)
        )
        async with self._client() as shared:
            began_s = time.monotonic()
            reply = await self._retried(shared, call)
            if reply.status == 401 and self._credentials.forget_tokens(before_s=began_s):
                # The server has refused the request, so it can be sent again.
                reply = await self._retried(shared, call)
            return await self._judged(shared, call, reply)

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

    def _address(self, draft: Draft) -> httpx.URL:
        """The address of the server with the path and query. A path cannot leave that address.

        Raises: ToolError for a segment `.` or `..`; httpx.InvalidURL; EnvFault if the path needs a session.
        """
        session = self._session_value()
        path, _, given = in_path(self.session, draft.path, session).partition("?")
        if any(unquote(segment) in (".", "..") for segment in path.split("/")):
            raise ToolError("the address must not contain '.' or '..' as a part of its path")
        base = in_path(self.session, draft.server or self._base, session)
        query = "&".join(filter(None, (given, draft.query)))
        return httpx.URL(base.rstrip("/") + "/" + path.lstrip("/") + (f"?{query}" if query else ""))

    # Attempts.

    async def _retried(self, shared: _SharedClient, call: _Call) -> Reply:
        await self._credentials.ready(shared.client)
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
        if not failure.suspect or self.offline:
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
                response = await client.send(self._authorized(client, call, {UNRECORDED_EXTENSION: True}), stream=True)
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
        most = self.settings.max_response_bytes
        request = self._authorized(client, call, {MOST_BYTES_EXTENSION: most + SECRET_BYTES})
        response = await client.send(request, stream=True)
        try:
            content = await read_bounded(response, most + SECRET_BYTES)
        finally:
            await response.aclose()
        content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
        text = redactor.text(decode(content, content_type, response.charset_encoding))
        if len(content) == most + SECRET_BYTES:  # what ends there may be the beginning of a secret
            text = text[: -SECRET_BYTES // LONGEST_CHARACTER]
        cut_off = len(content) > most
        return response, Reply(response.status_code, text[:most] if cut_off else text, content_type, cut_off)

    def _redirected(self, call: _Call, response: httpx.Response) -> _Call:
        target = call.url.join(response.headers["location"])
        if not self.settings.follow_redirects:
            raise ToolError(f"the server answered with a redirect to {target.host}, and redirects are off")
        if call.url.scheme == "https" and target.scheme == "http":
            raise ToolError("the server answered with a redirect from https to http, which is not followed")
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
        for name, value in call.cookies:
            add_cookie(headers, name, value)
        secrets: tuple[str, ...] = ()
        if _origin(url) in self._origins:
            secrets = self._secrets()
            url = attach(self.session, self._session_value(), url, headers)
            url = self._credentials.attach(url, headers)
        given = {SECRETS_EXTENSION: secrets, **(extensions or {})}
        request = client.build_request(call.method, url, headers=headers, content=call.content, extensions=given)
        if call.content_type:
            request.headers.setdefault("Content-Type", call.content_type)
        return request

    def _secrets(self) -> tuple[str, ...]:
        return (*self._credentials.secrets(), *hidden_forms(self._session_value()))

    def _session_value(self) -> str | None:
        value: str | None = session_value(self.session, offline=self.offline)
        return value

    async def _judged(self, shared: _SharedClient, call: _Call, reply: Reply) -> Reply:
        if reply.status < 400:
            return reply
        if reply.status == 401 and self.auth and not await self._credentials_work(shared, call):
            raise EnvFault(
                f"{call}: the server refused the credentials (401); check {self._credentials.variables}", who="author"
            )
        raise ToolError(f"status {reply.status}: {reply.text[:ERROR_CHARS] or 'no reason given'}")

    async def _credentials_work(self, shared: _SharedClient, call: _Call) -> bool:
        """Whether a request that succeeded before succeeds again; the 401 is then about the arguments of this one."""
        if self._successes.nearest(call.kind) is None:
            return False
        if self.offline:
            return True
        _, succeeded = await self._control(shared, call, _Failure("status 401"))
        return succeeded


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
