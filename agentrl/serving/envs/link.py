"""The client's side of a session: connects, connects again after a loss, and sends each request once.

Owns retries of the connection, and which failures are the network's and which the server's. What is asked belongs to
`agentrl.serving.envs.client`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from msgspec import structs

from agentrl.errors import ConfigError, EnvFault
from agentrl.serving.envs.pipe import Pipe
from agentrl.serving.envs.wire import (
    MOST_BYTES,
    SESSION,
    SESSION_HEADER,
    UPGRADE,
    Reply,
    Request,
    Welcome,
    decoded,
    encoded,
    frame,
)

T = TypeVar("T")
_WAITS_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
_CONNECT_S = 10.0
_LOST = (TimeoutError, OSError)


@dataclass(frozen=True)
class Place:
    """Where an environment is served.

    Attributes:
        url: of the server, without a path.
        token: that is sent.
    """

    url: str
    token: str = ""

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https:")

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if self.is_secure else 80)


def place_of(url: str, token: str = "") -> Place:
    """Where a URL leads. Raises: ConfigError if it is none of a server of environments."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError("give the token as an argument or in AGENTRL_ENV_TOKEN, not in the URL, which is recorded")
    try:
        parts.port  # noqa: B018 (it raises)
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(f"expected a URL such as http://127.0.0.1:8765, got {url!r}")
    if any(character in token for character in "\r\n"):
        raise ConfigError("a token has no line breaks")
    return Place(f"{parts.scheme}://{parts.netloc}", token)


class Link:
    """One session on a server. Works in one event loop at a time; in another one, it connects again.

    Args:
        place: of the server.
        version: of what it serves, as it was when the client was made.
        longest_s: seconds that an answer may take.
        session: to join; a new one by default.
    """

    def __init__(self, place: Place, version: str, longest_s: float, session: str = "") -> None:
        self.place, self._version, self._longest_s, self._session = place, version, longest_s, session
        self._n = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pipe: Pipe | None = None

    @property
    def session(self) -> str:
        """Name of the session; empty before the first request."""
        return self._session

    async def ask(self, request: Request) -> Reply:
        """The answer to a request, whose number is set here.

        Raises: EnvFault of the network if the server cannot be reached, of the server if it lost the session.
        """
        self._n += 1
        body = frame(encoded(structs.replace(request, n=self._n)))
        for wait_s in (*_WAITS_S, None):
            try:
                return await self._asked(body)
            except _LOST as error:
                self._drop()
                if wait_s is None:
                    text = f"the server of the environment at {self.place.url} cannot be reached: {_said(error)}"
                    raise EnvFault(text, who="network") from error
            except BaseException:
                self._drop()
                raise
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _asked(self, body: bytes) -> Reply:
        pipe = self._pipe
        if pipe is None or pipe.transport.is_closing() or self._loop is not asyncio.get_running_loop():
            self._drop()
            pipe = await self._connect()
        pipe.transport.write(body)
        reply = self._read(await pipe.frame_within(self._longest_s), Reply)
        if reply.n != self._n:
            text = reply.raised.text if reply.raised is not None else f"it answered request {reply.n}"
            raise EnvFault(f"the server of the environment did not take request {self._n}: {text}")
        return reply

    def _read(self, data: bytes, kind: type[T]) -> T:
        try:
            return decoded(data, kind)
        except ValueError as error:
            raise EnvFault(f"the server sent what is no {kind.__name__}: {error}") from error

    # Connecting.

    async def _connect(self) -> Pipe:
        host, port = self.place.address
        secure = ssl.create_default_context() if self.place.is_secure else None
        async with asyncio.timeout(_CONNECT_S):
            self._loop = loop = asyncio.get_running_loop()
            _, pipe = await loop.create_connection(Pipe, host, port, ssl=secure)
            self._pipe = pipe
            _keep_alive(pipe.transport)
            pipe.transport.write(self._head())
            status, length = _status_of(await pipe.head())
            if status != 101:
                self._refused(status, await pipe.body(min(length, MOST_BYTES)))
            welcome = self._read(await pipe.frame(), Welcome)
        if welcome.version != self._version:
            raise EnvFault(
                f"{self.place.url} now serves version {welcome.version!r} of the environment, and the client was made "
                f"for {self._version!r}: connect again",
            )
        if self._session and welcome.last not in (self._n, self._n - 1):
            raise EnvFault(f"the session on {self.place.url} was used by another client")
        if not self._session:
            self._session = welcome.session
        return pipe

    def _head(self) -> bytes:
        named = f"{SESSION_HEADER}: {self._session}\r\n" if self._session else ""
        token = f"Authorization: Bearer {self.place.token}\r\n" if self.place.token else ""
        return (
            f"GET {SESSION} HTTP/1.1\r\nHost: {urlsplit(self.place.url).netloc}\r\nConnection: Upgrade\r\n"
            f"Upgrade: {UPGRADE}\r\n{token}{named}\r\n"
        ).encode()

    def _refused(self, status: int, body: bytes) -> None:
        """Raises: EnvFault that discards the episode, or ConfigError where trying again is of no use."""
        with suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(body)["error"])
            raise (ConfigError if status in (401, 403, 421) else EnvFault)(f"{self.place.url} refused: {text}")
        raise EnvFault(f"{self.place.url} answered {status}: it is no server of environments, or a proxy is in between")

    def _drop(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with suppress(Exception):  # its loop may be closed
                pipe.transport.abort()

    async def close(self) -> None:
        """End the session, if the server can be reached at once."""
        if not self._session:
            return
        try:
            self._n += 1
            async with asyncio.timeout(5):
                await self._asked(frame(encoded(Request(self._n, "close"))))
        except (*_LOST, EnvFault, ConfigError):  # then it ends when it was idle for long enough
            pass
        finally:
            self._drop()
            self._session, self._n = "", 0


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Notice a machine that is gone without a word."""
    found = transport.get_extra_info("socket")
    if found is None:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _status_of(head: bytes) -> tuple[int, int]:
    """The status of a response, and the length of its body. Raises: ConnectionError if it is no HTTP."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ConnectionError("the answer is no HTTP")
    lengths = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("content-length:")]
    return int(words[1]), int(lengths[0]) if lengths and lengths[0].isdigit() else 0


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
