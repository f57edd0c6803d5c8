"""One attempt to send a request: allowed hosts, session and credentials, redirects, and an answer read within a bound.

Owns what a request carries and where it may go. Whether it is sent again belongs to `agentrl.tools.http_api`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from agentrl.errors import ToolError
from agentrl.tools.http_calls import Call, host_of, origin_of
from agentrl.tools.http_credentials import UNRECORDED_EXTENSION, Credentials
from agentrl.tools.http_session import add_cookie, attach, hidden_forms, session_value
from agentrl.tools.http_settings import HttpSettings, Session
from agentrl.wire.redaction import Redactor
from agentrl.wire.reply import Reply, decode, read_bounded

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
# Read beyond `max_response_bytes`, so that a secret at the limit is hidden as a whole before the cut.
SECRET_BYTES, LONGEST_CHARACTER = 16_000, 4
SECRETS_EXTENSION = "agentrl_secrets"
MOST_BYTES_EXTENSION = "agentrl_most_bytes"


@dataclass(frozen=True, eq=False)
class Sender:
    """Sends one request once, or to where redirects lead.

    Attributes:
        origins: scheme and host of the servers that get credentials and session.
        allowed: hosts that may be reached.
        offline: a cassette answers, and no server.
        passwords: those of the servers' addresses.
    """

    settings: HttpSettings
    credentials: Credentials
    session: Session | None
    origins: frozenset[tuple[str, str]]
    allowed: frozenset[str]
    offline: bool
    passwords: tuple[str, ...] = ()

    async def attempt(
        self, client: httpx.AsyncClient, hops: list[Call], redactor: Redactor
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

    async def _send(self, client: httpx.AsyncClient, call: Call, redactor: Redactor) -> tuple[httpx.Response, Reply]:
        most = self.settings.max_response_bytes
        request = self.authorized(client, call, {MOST_BYTES_EXTENSION: most + SECRET_BYTES})
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

    def _redirected(self, call: Call, response: httpx.Response) -> Call:
        target = call.url.join(response.headers["location"])
        if not self.settings.follow_redirects:
            raise ToolError(f"the server answered with a redirect to {target.host}, and redirects are off")
        if call.url.scheme == "https" and target.scheme == "http":
            raise ToolError("the server answered with a redirect from https to http, which is not followed")
        if response.status_code in (307, 308) or call.method in ("GET", "HEAD"):
            return replace(call, url=target)
        return Call("GET", target, call.headers)

    def _check_host(self, call: Call) -> None:
        host = host_of(call.url)
        if host in self.allowed or (call.url.port is None and call.url.host in self.allowed):
            return
        raise ToolError(f"host {host!r} is not allowed; allowed: {', '.join(sorted(self.allowed))}")

    async def status(self, client: httpx.AsyncClient, call: Call) -> int:
        """The status of the answer to one request; 0 if there is none."""
        try:
            async with asyncio.timeout(self.settings.control_timeout_s):
                response = await client.send(self.authorized(client, call, {UNRECORDED_EXTENSION: True}), stream=True)
                await response.aclose()
        except (httpx.RequestError, TimeoutError):
            return 0
        return response.status_code

    # What a request carries.

    def authorized(
        self, client: httpx.AsyncClient, call: Call, extensions: Mapping[str, Any] | None = None
    ) -> httpx.Request:
        url, headers = call.url, {"Accept-Encoding": "identity", **self.settings.headers, **call.headers}
        for name, value in call.cookies:
            add_cookie(headers, name, value)
        secrets: tuple[str, ...] = ()
        if origin_of(url) in self.origins:
            secrets = self.secrets()
            url = attach(self.session, self.session_value(), url, headers)
            url = self.credentials.attach(url, headers)
        given = {SECRETS_EXTENSION: secrets, **(extensions or {})}
        request = client.build_request(call.method, url, headers=headers, content=call.content, extensions=given)
        if call.content_type:
            request.headers.setdefault("Content-Type", call.content_type)
        return request

    def secrets(self) -> tuple[str, ...]:
        return (*self.credentials.secrets(), *hidden_forms(self.session_value()), *self.passwords)

    def session_value(self) -> str | None:
        value: str | None = session_value(self.session, offline=self.offline)
        return value
