"""How requests to an API are made: credentials by name, retries, limits. Owns values, sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentrl.wire.retry import Retry


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials by the names of environment variables; the values are read at each request.

    Make one with `bearer`, `api_key` or `basic`.
    """

    kind: Literal["bearer", "header", "query", "basic"]
    variables: tuple[str, ...]
    name: str = ""


def bearer(variable: str) -> Auth:
    """`Authorization: Bearer ...` with the token in an environment variable."""
    return Auth("bearer", (variable,), "Authorization")


def api_key(name: str, variable: str, *, where: Literal["header", "query"] = "header") -> Auth:
    """An API key in a header or a query parameter."""
    return Auth(where, (variable,), name)


def basic(user_variable: str, password_variable: str) -> Auth:
    """HTTP basic authentication."""
    return Auth("basic", (user_variable, password_variable), "Authorization")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How requests are made.

    Attributes:
        timeout_s: of one attempt, from connecting to the last byte.
        retry: when to try again.
        max_response_bytes: where a body is cut off; the model is told.
        follow_redirects: off by default; allowed hosts hold after redirects too.
        headers: sent with every request; no secrets here, they would be recorded nowhere but in code.
    """

    timeout_s: float = 10.0
    retry: Retry = field(default_factory=Retry)
    max_response_bytes: int = 64_000
    follow_redirects: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """Seconds that a call may take at most, all attempts and waits included."""
        return self.retry.attempts * (self.timeout_s + max(self.retry.max_wait_s, self.retry.longest_asked_s))
