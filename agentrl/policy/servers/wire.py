"""One request to an inference server, and what becomes of its answer. Owns no field of any server's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from agentrl.errors import ConfigError
from agentrl.policy.remote.errors import ServerError, shorten
from agentrl.policy.remote.reading import ResponseError
from agentrl.policy.remote.transport import fetch
from agentrl.wire.redaction import without_credentials

_MOST_BYTES = 64 * 2**20
_SHOWN_CHARS = 300
_REFUSED = (400, 413, 422)
_CLOSED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""A connection ended: a server closes one that was idle for a few seconds, also while a request is on its way."""


Cause = Literal["network", "weights", "answer"]


class ServerLost(Exception):
    """A server gave no usable answer. The turn is asked again, of it or of another one.

    Attributes:
        cause: `network`: it cannot be reached; `weights`: it has other weights than it was given, as after a restart;
            `answer`: it fails, or answers what cannot be right.
    """

    def __init__(self, message: str, cause: Cause = "answer") -> None:
        super().__init__(message)
        self.cause = cause


class ServerBusy(Exception):
    """A server asks to be asked later.

    Attributes: asked_s: how long it asks to wait, in seconds; None if it does not say.
    """

    def __init__(self, message: str, asked_s: float | None) -> None:
        super().__init__(message)
        self.asked_s = asked_s


class NotOffered(ConfigError):
    """A server does not know a path."""


@dataclass(frozen=True)
class Address:
    """A server and how to reach it.

    Attributes:
        url: without a path and without a slash at the end.
        client: of the running event loop; it sends the key.
    """

    url: str
    client: httpx.AsyncClient

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return without_credentials(self.url)

    async def post(self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float) -> bytes:
        """The body of an answer. Raises: as `get`."""
        content = None if body is None else json.dumps(body).encode()
        return await self._ask("POST", path, content, timeout_s)

    async def get(self, path: str, *, timeout_s: float) -> bytes:
        """The body of an answer.

        Raises: ServerLost, ServerBusy; NotOffered if the server has no such path; ConfigError if it refuses the request
            or the key.
        """
        return await self._ask("GET", path, None, timeout_s)

    async def _ask(self, method: str, path: str, content: bytes | None, timeout_s: float) -> bytes:
        headers = {} if content is None else {"Content-Type": "application/json"}
        request = self.client.build_request(method, f"{self.url}{path}", content=content, headers=headers)
        try:
            try:
                found = await fetch(self.client, request, timeout_s=timeout_s, most_bytes=_MOST_BYTES)
            except _CLOSED:  # perhaps only this connection; a request that took effect may take effect twice
                found = await fetch(self.client, request, timeout_s=timeout_s, most_bytes=_MOST_BYTES)
        except (TimeoutError, httpx.TimeoutException):
            raise ServerLost(f"{self.shown}{path} gave no answer within {timeout_s:g} s") from None
        except httpx.RequestError as error:
            raise ServerLost(f"{self.shown} cannot be reached: {type(error).__name__}: {error}", "network") from None
        except ResponseError as error:
            raise ServerLost(f"{self.shown}{path}: {shorten(str(error), _SHOWN_CHARS)}") from None
        if isinstance(found, ServerError):
            raise self._error(path, found)
        return found

    def _error(self, path: str, error: ServerError) -> Exception:
        said = f"{self.shown}{path} answered {error.status}: {shorten(error.message, _SHOWN_CHARS)}"
        if error.status in (408, 425, 429, 503):
            return ServerBusy(said, error.retry_after_s)
        if error.status in (401, 403):
            return ConfigError(f"{said}. Set the environment variable AGENTRL_SERVER_KEY to the server's key")
        if error.status in (404, 405):
            return NotOffered(f"{said}. The server does not offer this")
        if error.status in _REFUSED:
            return ConfigError(f"{said}. Check scale.server, and the server's version and options")
        return ServerLost(said)
