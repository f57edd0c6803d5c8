"""An HTTP client for tools: credentials from the environment, allowed hosts, retries, limits.

Owns one request, from its arguments to a reply or an error. `agentrl.tools.openapi` decides which requests
there are, `agentrl.tools.cassette` records them.

A request that cannot be written (a lone surrogate, an address that is too long, a header with a line break) and a
4xx answer are a `ToolError`, which the model reads. A failure of the network or the server and refused credentials
are an `EnvFault`. Some servers answer 500 to odd but valid input. So after a failure that the request itself may
have caused, a control request asks whether the server still answers others: see `HttpApi`.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal
from urllib.parse import unquote

import httpx

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.http_calls import IDEMPOTENT, NOT_PROCESSED, Call, Draft, Failure, host_of, origin_of
from agentrl.tools.http_credentials import Credentials
from agentrl.tools.http_sender import Sender
from agentrl.tools.http_session import in_path, session_of
from agentrl.tools.http_settings import (
    CONNECTIONS,
    Auth,
    HttpSettings,
    Session,
    api_key,
    basic,
    bearer,
    is_retried,
    oauth2,
)
from agentrl.wire.control import Controls, Successes
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import Redactor, without_credentials
from agentrl.wire.reply import Reply, reply_text
from agentrl.wire.request_text import body_bytes, header_text, writing
from agentrl.wire.retry import NoMoreAttempts, Retry, retry_after_s, with_retries

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

ERROR_CHARS = 500


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
            raise ValueError(f"base_url must be a http or https address, got {without_credentials(base_url)!r}")
        self._base = base_url
        self.settings = settings or HttpSettings()
        self.auth = (auth,) if isinstance(auth, Auth) else tuple(auth or ())
        self.session = session_of(session)
        own = [self.base_url, *map(httpx.URL, servers)]
        given = [host_of(self.base_url)] if allow_hosts is None else allow_hosts
        allowed = frozenset([*given, *map(host_of, own[1:])])
        # Called before each request; it begins an episode on the server.
        self.opening: Callable[[], Awaitable[None]] | None = None
        self._transport = transport
        self.offline = bool(getattr(transport, "offline", False))
        self._rng = rng or random.Random()
        self._credentials = Credentials(
            self.auth, self.base_url.host, offline=self.offline, settings=self.settings, rng=self._rng
        )
        origins, passwords = frozenset(map(origin_of, own)), tuple(url.password for url in own if url.password)
        self._sender = Sender(self.settings, self._credentials, self.session, origins, allowed, self.offline, passwords)
        self._successes: Successes[Call] = Successes()
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
        call = Call(
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
        session = self._sender.session_value()
        path, _, given = in_path(self.session, draft.path, session).partition("?")
        if any(unquote(segment) in (".", "..") for segment in path.split("/")):
            raise ToolError("the address must not contain '.' or '..' as a part of its path")
        base = in_path(self.session, draft.server or self._base, session)
        query = "&".join(filter(None, (given, draft.query)))
        return httpx.URL(base.rstrip("/") + "/" + path.lstrip("/") + (f"?{query}" if query else ""))

    # Attempts.

    async def _retried(self, shared: _SharedClient, call: Call) -> Reply:
        failures: list[Failure] = []

        async def attempt() -> Reply | Failure:
            outcome = await self._outcome(shared.client, call)
            if isinstance(outcome, Failure):
                failures.append(outcome)
                if not (outcome.not_processed or self._repeatable(call)):
                    raise NoMoreAttempts(outcome, len(failures), asked_too_long=False)
            return outcome

        try:
            return await with_retries(attempt, self.settings.retry, self._rng)
        except NoMoreAttempts as end:
            answers, succeeded = await self._control(shared, call, failures[-1])
            if succeeded and len(failures) > 1 and self._repeatable(call) and all(f.status >= 500 for f in failures):
                return await self._once_more(shared, call, len(failures))
            raise self._given_up(call, end, failures[-1], answers) from None

    def _repeatable(self, call: Call) -> bool:
        return call.method in IDEMPOTENT or self.settings.retry.unsafe_methods

    async def _once_more(self, shared: _SharedClient, call: Call, failed: int) -> Reply:
        """The last attempt, right after the server answered a control request.

        Without it, a server that comes back just before the control request would look as if it refused this request.
        """
        outcome = await self._outcome(shared.client, call)
        if isinstance(outcome, Reply):
            return outcome
        if outcome.status >= 500:
            raise ToolError(
                f"the server failed on this request {failed + 1} times (status {outcome.status}), while it answers "
                "others: change the arguments"
            )
        message = f"{self._named(call)} failed {failed + 1} times, last with {outcome.reason}"
        raise EnvFault(message, who=outcome.who)

    async def _outcome(self, client: httpx.AsyncClient, call: Call) -> Reply | Failure:
        """One attempt: a reply, or a failure.

        Raises: ToolError if the request cannot be written, or is redirected where it must not go.
        """
        await self._credentials.ready(client)  # a token may have expired, or been replaced, since the last attempt
        redactor, hops = Redactor(self._sender.secrets()), [call]
        try:
            response, reply = await self._sender.attempt(client, hops, redactor)
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ToolError(f"the request cannot be sent: {redactor.text(str(error))}") from None
        except (httpx.RequestError, TimeoutError) as error:
            refused = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            # A server that refuses a connection has not seen the request. One that a redirect names may be the
            # choice of the model.
            suspect = not refused or origin_of(hops[-1].url) != origin_of(call.url)
            reason = f"{type(error).__name__} {redactor.text(str(error))}".strip()
            who: Literal["server", "network"] = "server" if isinstance(error, httpx.DecodingError) else "network"
            return Failure(reason, who=who, not_processed=refused, suspect=suspect)
        status = reply.status
        if is_retried(status):
            asked_s = retry_after_s(response.headers)
            not_processed = status in NOT_PROCESSED
            return Failure(f"status {status}", asked_s, "server", status, not_processed, status >= 500)
        if call.is_control() and status < 400:
            self._successes.add(call.kind, call)
        return reply

    def _named(self, call: Call) -> str:
        """The request for messages; the path may hold a session."""
        name: str = Redactor(self._sender.secrets()).text(str(call))
        return name

    def _given_up(self, call: Call, end: NoMoreAttempts, last: Failure, answers: bool | None) -> EnvFault:
        name = self._named(call)
        if end.asked_too_long:
            most_s = self.settings.retry.longest_asked_s
            message = (
                f"{name}: the server asks to wait {end.last.asked_s:.0f} s, and at most {most_s:g} s are allowed; "
                "try again later, or raise Retry(max_asked_s=...)"
            )
        elif not (last.not_processed or self._repeatable(call)):
            message = f"{name} failed: {last.reason}; it may have been carried out, so it is not sent again"
        else:
            message = f"{name} failed {end.attempts} times, last with {end.last.reason}"
        return EnvFault(message, who=last.who, answers=answers)

    async def _control(self, shared: _SharedClient, call: Call, failure: Failure) -> tuple[bool | None, bool]:
        """Ask the server once whether it answers another request.

        Returns: whether it answers, None if it was not asked or its answer (4xx) proves nothing: a database behind it
            may be down. And whether the other request succeeded.
        """
        if not failure.suspect or self.offline:
            return None, False
        found = self._successes.nearest(call.kind)
        control = found if found is not None else Call("GET", self.base_url, {})
        key = (control.method, str(control.url))
        status = await shared.controls.ask(key, time.monotonic(), lambda: self._sender.status(shared.client, control))
        succeeded = 0 < status < 400
        return None if 400 <= status < 500 else succeeded, succeeded

    async def _judged(self, shared: _SharedClient, call: Call, reply: Reply) -> Reply:
        if reply.status < 400:
            return reply
        if reply.status == 401 and self.auth and not await self._credentials_work(shared, call):
            raise EnvFault(
                f"{self._named(call)}: the server refused the credentials (401); check {self._credentials.variables}",
                who="author",
            )
        raise ToolError(f"status {reply.status}: {reply.text[:ERROR_CHARS] or 'no reason given'}")

    async def _credentials_work(self, shared: _SharedClient, call: Call) -> bool:
        """Whether a request that succeeded before succeeds again; the 401 is then about the arguments of this one."""
        if self._successes.nearest(call.kind) is None:
            return False
        if self.offline:
            return True
        _, succeeded = await self._control(shared, call, Failure("status 401"))
        return succeeded


def _open(transport: httpx.AsyncBaseTransport | None) -> _SharedClient:
    # httpx's own timeouts are off: each attempt has one deadline.
    # Cookies are off: they would carry the session of one episode into another.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return _SharedClient(httpx.AsyncClient(transport=transport, cookies=cookies, timeout=None, limits=CONNECTIONS))


async def _close(shared: _SharedClient) -> None:
    await shared.client.aclose()
