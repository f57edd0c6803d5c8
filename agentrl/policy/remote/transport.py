"""Connections to a server: how many requests at once and how far apart, and one request over httpx.

Owns the limits and the bytes. What a reply means belongs to the dialects, what becomes of a failure to
`agentrl.policy.remote.policy`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx

from agentrl.errors import ConfigError
from agentrl.policy.remote.apis import Api
from agentrl.policy.remote.dialect import Dialect
from agentrl.policy.remote.errors import ServerError, error_of
from agentrl.policy.remote.options import ChatOptions
from agentrl.policy.remote.reading import ResponseError
from agentrl.wire.redaction import without_credentials

_CONNECT_TIMEOUT_S = 10.0


class Gate:
    """Limits the requests of one event loop: how many at once, how far apart, and none during a server's pause."""

    def __init__(self, max_concurrency: int, requests_per_minute: float | None) -> None:
        self._slots, self._queue = asyncio.Semaphore(max_concurrency), asyncio.Lock()
        self._spacing_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_s = 0.0
        self._closed_until_s = 0.0

    def pause(self, seconds: float) -> None:
        self._closed_until_s = max(self._closed_until_s, monotonic() + seconds)

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        try:
            async with self._queue:  # one after the other: a request that wakes up late holds back those behind it
                while (wait_s := max(self._closed_until_s, self._next_s) - monotonic()) > 0:  # noqa: ASYNC110 (may grow)
                    await asyncio.sleep(wait_s)
                self._next_s = monotonic() + self._spacing_s
        except BaseException:
            self._slots.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._slots.release()


@dataclass(slots=True)
class Lane:
    """The client and the gate of one event loop; neither works in another loop.

    Attributes:
        owned: whether the policy made the client, and so closes it.
    """

    client: httpx.AsyncClient
    gate: Gate
    owned: bool

    @classmethod
    def open(cls, options: ChatOptions, dialect: Dialect, api_key_env: str, given: httpx.AsyncClient | None) -> Lane:
        gate = Gate(options.max_concurrency, options.requests_per_minute)
        return cls(given or _make_client(options, dialect, api_key_env), gate, owned=given is None)

    async def aclose(self) -> None:
        if self.owned:
            await self.client.aclose()


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes out: its body, and headers in addition to the client's own."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A body with status 200 that is JSON, and the seconds from the first byte sent to the last byte read."""

    body: Any
    latency_s: float


async def send(
    client: httpx.AsyncClient, url: httpx.URL, message: Sent, *, timeout_s: float, most_bytes: int
) -> Reply | ServerError:
    """One request.

    Returns: the reply, or the error of another status than 200.
    Raises: ResponseError for a body that is no JSON or too large; TimeoutError; errors of httpx.
    """
    started = monotonic()
    headers = {"Content-Type": "application/json", **message.headers}
    request = client.build_request("POST", url, content=message.content, headers=headers)
    content = await fetch(client, request, timeout_s=timeout_s, most_bytes=most_bytes)
    if isinstance(content, ServerError):
        return content
    try:
        return Reply(json.loads(content), monotonic() - started)
    except ValueError:
        raise ResponseError(f"the body is not JSON: {content.decode(errors='replace')}") from None


async def fetch(
    client: httpx.AsyncClient, request: httpx.Request, *, timeout_s: float, most_bytes: int
) -> bytes | ServerError:
    """The body of an answer with status 200, or the error of another status.

    Raises: ResponseError for a body that is too large; TimeoutError; errors of httpx.
    """
    async with asyncio.timeout(timeout_s):
        response = await client.send(request, stream=True)
        try:
            content = await _content_of(response, most_bytes)
        finally:
            await response.aclose()
    return content if response.status_code == 200 else error_of(response.status_code, content, response.headers)


async def _content_of(response: httpx.Response, most: int) -> bytes:
    """The body. Raises: ResponseError if it is larger than `most` bytes."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > most:
            raise ResponseError(f"the body is larger than max_reply_bytes={most}")
        parts.append(part)
    return b"".join(parts)


def _make_client(options: ChatOptions, dialect: Dialect, api_key_env: str) -> httpx.AsyncClient:
    key = os.environ.get(api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {api_key_env} has characters that a key cannot have: set it again")
    return httpx.AsyncClient(
        headers={**dialect.headers(key), **options.headers},
        timeout=httpx.Timeout(options.timeout_s, connect=min(_CONNECT_TIMEOUT_S, options.timeout_s)),
        limits=httpx.Limits(max_connections=options.max_concurrency, max_keepalive_connections=options.max_concurrency),
    )


def url_of(base_url: str, api: Api) -> httpx.URL:
    """The address of an API's requests. Raises: ConfigError for a base URL that is none."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        what = str(error).partition("'")[0].rstrip(": ")  # what it quotes may be a part of a password
        raise ConfigError(f"base_url is not a URL: {what}; give one like http://localhost:8000/v1") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            "base_url must begin with http:// or https:// and a host, like http://localhost:8000/v1, got "
            f"{without_credentials(base_url)!r}"
        )
    if url.port is not None and not 0 < url.port < 2**16:
        raise ConfigError(f"base_url has the port {url.port}: a port is a number from 1 to 65535")
    return url.copy_with(path=api.endpoint(url.path))
