"""Credentials of an API: read from the environment at each request, attached to it, and known as secrets.

Owns the tokens of OAuth 2 client credentials. The libraries that have this flow for httpx were looked at: `httpx-auth`
(0.23) fetches its token with a blocking client, which would stop every episode of an event loop, and `authlib` (1.6)
brings a client of its own in the place of the one that bounds, retries and records requests here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx

from agentrl.errors import EnvFault
from agentrl.tools.http_session import add_cookie
from agentrl.tools.http_settings import Auth, HttpSettings, is_retried
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import REDACTED, Redactor
from agentrl.wire.reply import read_bounded
from agentrl.wire.request_text import FORM, is_header_text, is_unicode
from agentrl.wire.retry import Failed, NoMoreAttempts, retry_after_s, with_retries

UNRECORDED_EXTENSION = "agentrl_unrecorded"
_TOKEN_BYTES = 64_000
# A token is fetched anew this long before it expires, and used for half its life where that is shorter.
_EARLY_S = 30.0
_LIFE_S = 3600.0  # of a token whose server does not say


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    fetched_s: float
    expires_s: float


class Credentials:
    """The credentials of one `HttpApi`.

    Args:
        auth: what to send.
        host: of the API, for messages.
        offline: whether no request uses the network: then no variable needs a value, and no token is fetched.
        settings: timeouts and retries of a request for a token.
        rng: draws the jitter of the waits.
    """

    def __init__(
        self, auth: Sequence[Auth], host: str, *, offline: bool, settings: HttpSettings, rng: random.Random
    ) -> None:
        self.auth = tuple(auth)
        self._host, self._offline, self._settings, self._rng = host, offline, settings, rng
        self._tokens: dict[Auth, _Token] = {}
        self._locks: PerLoop[asyncio.Lock] = PerLoop(asyncio.Lock)

    @property
    def variables(self) -> str:
        return ", ".join(variable for auth in self.auth for variable in auth.variables)

    def secrets(self) -> tuple[str, ...]:
        """The values that no record may hold: keys, passwords and tokens, and a user name joined with its password."""
        values = [tuple(self._value(variable) for variable in auth.variables) for auth in self.auth]
        joined = [":".join(pair) for pair in values if len(pair) > 1]
        tokens = [token.value for token in list(self._tokens.values())]
        # A user name is not a secret. The password is, and so are both joined.
        return tuple(value for value in [*(pair[-1] for pair in values), *joined, *tokens] if value != REDACTED)

    def attach(self, url: httpx.URL, headers: MutableMapping[str, str]) -> httpx.URL:
        """Put the credentials into the header, query or cookies of a request; returns its address."""
        for auth in self.auth:
            if auth.kind == "query":
                url = url.copy_set_param(auth.name, self._value(auth.variables[0]))
            elif auth.kind == "cookie":
                add_cookie(headers, auth.name, self._value(auth.variables[0]))
            else:
                headers[auth.name] = self._header(auth)
        return url

    def _header(self, auth: Auth) -> str:
        if auth.kind == "oauth2":
            token = self._tokens.get(auth)
            return f"Bearer {token.value if token is not None else REDACTED}"
        values = [self._value(variable) for variable in auth.variables]
        if auth.kind == "basic":
            return _basic(":".join(values))
        if not is_header_text(values[0]):
            raise EnvFault(
                f"environment variable {auth.variables[0]} cannot be sent as a header: it must be printable ASCII "
                "without blanks or line breaks at its ends",
                who="author",
            )
        return f"Bearer {values[0]}" if auth.kind == "bearer" else values[0]

    def _value(self, variable: str) -> str:
        value = os.environ.get(variable, "")
        if not value and self._offline:
            return str(REDACTED)  # a replay needs no credentials
        if not value:
            raise EnvFault(
                f"environment variable {variable} is not set: it holds the credentials of {self._host}", who="author"
            )
        if not is_unicode(value):
            raise EnvFault(f"environment variable {variable} holds bytes that are not UTF-8", who="author")
        return value

    # Tokens.

    async def ready(self, client: httpx.AsyncClient) -> None:
        """Fetch the tokens that are missing or about to expire. Raises: EnvFault if none is given."""
        for auth in self.auth:
            if auth.kind == "oauth2" and not self._offline and not self._fresh(auth):
                async with self._locks.get():
                    if not self._fresh(auth):  # another episode may have fetched it meanwhile
                        self._tokens[auth] = await self._fetched(client, auth)

    def forget_tokens(self, *, before_s: float) -> bool:
        """After a 401: forget the tokens that were fetched before a request began, as they may be revoked.

        Returns: whether a new attempt can have another token.
        """
        for auth, token in list(self._tokens.items()):
            if token.fetched_s <= before_s:
                del self._tokens[auth]
        return not self._offline and any(auth.kind == "oauth2" for auth in self.auth)

    def _fresh(self, auth: Auth) -> bool:
        token = self._tokens.get(auth)
        return token is not None and time.monotonic() < token.expires_s

    async def _fetched(self, client: httpx.AsyncClient, auth: Auth) -> _Token:
        began_s = time.monotonic()

        async def attempt() -> tuple[int, bytes] | Failed:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    response = await client.send(self._token_request(client, auth), stream=True)
                    try:
                        content = await read_bounded(response, _TOKEN_BYTES)
                    finally:
                        await response.aclose()
            except (httpx.RequestError, TimeoutError) as error:
                return Failed(type(error).__name__)
            if is_retried(response.status_code):
                return Failed(f"status {response.status_code}", retry_after_s(response.headers))
            return response.status_code, content

        where = httpx.URL(auth.token_url).host
        try:
            status, content = await with_retries(attempt, self._settings.retry, self._rng)
        except NoMoreAttempts as end:
            raise EnvFault(f"{where} gave no token in {end.attempts} attempts, last with {end.last.reason}") from None
        return self._read_token(auth, where, status, content, began_s)

    def _token_request(self, client: httpx.AsyncClient, auth: Auth) -> httpx.Request:
        name, secret = (self._value(variable) for variable in auth.variables)
        fields = {"grant_type": "client_credentials", **dict(auth.more)}
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": FORM}
        if auth.in_body:
            fields |= {"client_id": name, "client_secret": secret}
        else:
            headers["Authorization"] = _basic(f"{quote_plus(name)}:{quote_plus(secret)}")
        content = urlencode(fields).encode()
        extensions = {UNRECORDED_EXTENSION: True}
        return client.build_request("POST", auth.token_url, headers=headers, content=content, extensions=extensions)

    def _read_token(self, auth: Auth, where: str, status: int, content: bytes, began_s: float) -> _Token:
        try:
            given: Any = json.loads(content)
        except (ValueError, RecursionError):
            given = None
        given = given if isinstance(given, dict) else {}
        token = given.get("access_token")
        if status >= 400 or not isinstance(token, str) or not is_header_text(token) or not token:
            reason = Redactor(self.secrets()).text(str(given.get("error", "no token in its answer")))[:80]
            names = " and ".join(auth.variables)
            raise EnvFault(f"{where} refused a token (status {status}: {reason}); check {names}", who="author")
        life_s = given.get("expires_in", _LIFE_S)
        try:
            life_s = max(0.0, float(life_s))
        except (TypeError, ValueError, OverflowError):
            life_s = _LIFE_S
        return _Token(token, began_s, began_s + max(life_s - _EARLY_S, life_s / 2))


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()
