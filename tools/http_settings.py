"""Settings of requests to an API: credentials by name, retries, limits. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentrl.wire.retry import Retry

LONGEST_CONTROL_S = 5.0


@dataclass(frozen=True, slots=True)
class Auth:
    """The names of the environment variables that hold credentials. The values are read at each request.

    Make one with `bearer`, `api_key` or `basic`.
    """

    kind: Literal["bearer", "header", "query", "basic"]
    variables: tuple[str, ...]
    name: str = ""


def bearer(variable: str) -> Auth:
    """Sends `Authorization: Bearer TOKEN`; the environment variable holds the token."""
    return Auth("bearer", (variable,), "Authorization")


def api_key(name: str, variable: str, *, where: Literal["header", "query"] = "header") -> Auth:
    """Sends an API key in the header or query parameter `name`; the environment variable holds the key."""
    return Auth(where, (variable,), name)


def basic(user_variable: str, password_variable: str) -> Auth:
    """HTTP basic authentication; the environment variables hold user name and password."""
    return Auth("basic", (user_variable, password_variable), "Authorization")


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
