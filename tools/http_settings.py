"""Settings of requests to an API: credentials by name, sessions, retries, limits. Sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from agentrl.wire.redaction import without_credentials
from agentrl.wire.retry import Retry

LONGEST_CONTROL_S = 5.0
# No request waits for a connection: the wait for other episodes would count against the time of an attempt.
CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=100)
SessionPlace = Literal["header", "query", "cookie", "path"]
# Server errors that are about the request: the method is not implemented, the HTTP version is not supported.
NOT_RETRIED = frozenset({501, 505})


def is_retried(status: int) -> bool:
    """Whether a request with this answer is sent again: 408, 429 and 5xx."""
    return status in (408, 429) or (status >= 500 and status not in NOT_RETRIED)


@dataclass(frozen=True, slots=True)
class Auth:
    """The names of the environment variables that hold credentials. The values are read at each request.

    Make one with `bearer`, `api_key`, `basic` or `oauth2`.

    Attributes:
        token_url: where OAuth 2 gives tokens.
        more: further fields of a request for a token, such as `scope`.
        in_body: OAuth 2 sends the client's id and secret as fields of the form, not as basic authentication.
    """

    kind: Literal["bearer", "header", "query", "cookie", "basic", "oauth2"]
    variables: tuple[str, ...]
    name: str = ""
    token_url: str = ""
    more: tuple[tuple[str, str], ...] = ()
    in_body: bool = False


def bearer(variable: str) -> Auth:
    """Sends `Authorization: Bearer TOKEN`; the environment variable holds the token."""
    return Auth("bearer", (variable,), "Authorization")


def api_key(name: str, variable: str, *, where: Literal["header", "query", "cookie"] = "header") -> Auth:
    """Sends an API key in the header, query parameter or cookie `name`; the environment variable holds the key."""
    return Auth(where, (variable,), name)


def basic(user_variable: str, password_variable: str) -> Auth:
    """HTTP basic authentication; the environment variables hold user name and password."""
    return Auth("basic", (user_variable, password_variable), "Authorization")


def oauth2(
    token_url: str, id_variable: str, secret_variable: str, *, scope: str = "", in_body: bool = False, **more: str
) -> Auth:
    """OAuth 2 client credentials: a token is fetched, used until shortly before it expires, and fetched anew.

    A token that the server refuses (401) before that is replaced once, and the request is sent again.

    Args:
        token_url: where tokens are given.
        id_variable: the environment variable with the client's id.
        secret_variable: the environment variable with the client's secret.
        scope: what the token is for, separated by blanks.
        in_body: send id and secret as fields of the form, for servers that refuse basic authentication there.
        more: further fields of the form, such as `audience`.
    Source: RFC 6749, sections 2.3.1 and 4.4.
    """
    if not token_url.startswith(("http://", "https://")):
        raise ValueError(f"token_url must be a http or https address, got {without_credentials(token_url)!r}")
    fields = {"scope": scope, **more} if scope else more
    variables = (id_variable, secret_variable)
    return Auth("oauth2", variables, "Authorization", token_url, tuple(fields.items()), in_body)


@dataclass(frozen=True, slots=True)
class Session:
    """A value of the episode that goes into every request, so that a server tells episodes apart.

    Attributes:
        name: of the header, query parameter or cookie, or of the part `{name}` of the path or base URL.
        where: which of these it is.
        value: the name of an attribute of the environment, or a function of the environment; while that is None,
            requests carry no session. By default each episode draws a value that no other has.
    """

    name: str
    where: SessionPlace = "header"
    value: str | Callable[[Any], str | None] | None = None


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Timeouts, retries and limits of requests.

    Attributes:
        timeout_s: seconds for one attempt, from connecting to the last byte of the answer.
        retry: how often and when a failed request is sent again.
        max_response_bytes: a longer body is cut off, and the model is told so.
        follow_redirects: follow redirects, to allowed hosts only; off by default.
        headers: sent with every request. Put secrets into `auth` instead: these values are not redacted.
    """

    timeout_s: float = 10.0
    retry: Retry = field(default_factory=Retry)
    max_response_bytes: int = 64_000
    follow_redirects: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not value.isprintable() or value != value.strip():
                raise ValueError(f"header {name} must have no control characters and no blanks at its ends: {value!r}")

    @property
    def total_s(self) -> float:
        """Most seconds that a call can take, with all attempts and waits, and the control request after them."""
        waits_s = self.retry.attempts * max(self.retry.max_wait_s, self.retry.longest_asked_s)
        # After a control request the call may be sent once more. A control that is shared may be waited for.
        return (self.retry.attempts + 1) * self.timeout_s + waits_s + 2 * self.control_timeout_s

    @property
    def control_timeout_s(self) -> float:
        """Seconds for a control request, which asks after a failure whether the server still answers."""
        return min(LONGEST_CONTROL_S, self.timeout_s)
