"""How requests to an API are made: credentials by name, retries, limits. Owns values, sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


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
class Retry:
    """Exponential backoff with full jitter, for 408, 429, 5xx and connection errors.

    A POST or PATCH is sent again only where it cannot have been carried out (no connection, 429, 503),
    unless `unsafe_methods`.

    Attributes:
        attempts: requests in all; 1 never retries.
        base_s: most seconds before the second attempt; it doubles from there.
        max_wait_s: most seconds of one wait; a `Retry-After` beyond it is a fault at once.
        unsafe_methods: send POST and PATCH again after any failure.
    """

    attempts: int = 4
    base_s: float = 0.5
    max_wait_s: float = 20.0
    unsafe_methods: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")


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
        return self.retry.attempts * (self.timeout_s + self.retry.max_wait_s)
