"""One request of a tool as a value, before and after its address is known, and a failed attempt. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import httpx

from agentrl.wire.retry import Failed

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
SAFE = frozenset({"GET", "HEAD"})
# The server refused the request before it did anything, so that even a POST can be sent again.
NOT_PROCESSED = frozenset({429, 503})
MOST_KEPT_URL_CHARS = 2_000


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
class Call:
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
class Failure(Failed):
    """An attempt that failed. `suspect` says that the request itself may be the cause: a control request then helps."""

    who: Literal["server", "network"] = "server"
    status: int = 0
    not_processed: bool = False
    suspect: bool = True


def host_of(url: httpx.URL) -> str:
    """`host`, or `host:port` if the port is not the scheme's default."""
    return url.host if url.port is None else f"{url.host}:{url.port}"


def origin_of(url: httpx.URL) -> tuple[str, str]:
    return url.scheme, host_of(url)
