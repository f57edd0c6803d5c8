"""Connections of the server: HTTP with deadlines, and sessions in frames after an upgrade.

Owns what a connection may do before it is known: a client that sends its request slowly, or nothing, is hung up on.
Which session a frame belongs to is said once, when the connection is upgraded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import h11
from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentrl.serving.envs.guard import Gate, Refused
from agentrl.serving.envs.sessions import NoSession, Session, Sessions, TooMany
from agentrl.serving.envs.wire import (
    LENGTH_BYTES,
    MOST_BYTES,
    SESSION,
    SESSION_HEADER,
    UPGRADE,
    Raised,
    Reply,
    Request,
    Welcome,
    decoded,
    encoded,
    frame,
)
from agentrl.serving.listener import HEAD_S, patient

logger = logging.getLogger(__name__)


def protocol_of(sessions: Sessions, gate: Gate, version: str, request_s: float = HEAD_S) -> type[H11Protocol]:
    """The protocol class that a server is given.

    Args:
        sessions: of the server.
        gate: decides who may ask.
        version: of what is served, for clients that come back.
        request_s: seconds for the head of a request.
    """

    class Upgrading(patient(request_s)):  # type: ignore[misc]
        """Hangs up on slow heads, and upgrades to frames."""

        def _should_upgrade(self) -> bool:
            return bool(self._get_upgrade() == UPGRADE.encode() or super()._should_upgrade())

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            if self._get_upgrade() != UPGRADE.encode():
                super().handle_websocket_upgrade(event)
                return
            self._forget_deadline()
            self.connections.discard(self)
            Frames(self.scope, self.transport, self.connections, self.tasks).begin(sessions, gate, version)

    return Upgrading


class Frames(asyncio.Protocol):
    """One upgraded connection."""

    def __init__(self, scope: Any, transport: Any, connections: set[Any], tasks: set[Any]) -> None:
        self._scope, self._transport, self._connections, self._tasks = scope, transport, connections, tasks
        self._buffer = bytearray()
        self._session: Session | None = None
        self._end: Callable[[Session], Awaitable[None]] | None = None
        self._is_over, self._is_asked, self._is_full, self._is_counted = False, False, False, False

    def begin(self, sessions: Sessions, gate: Gate, version: str) -> None:
        """Take the connection over from HTTP."""
        self._connections.add(self)
        self._transport.set_protocol(self)
        self._end = sessions.end
        self._run(self._join(sessions, gate, version))

    def _run(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, sessions: Sessions, gate: Gate, version: str) -> None:
        headers = Headers(scope=self._scope)
        try:
            gate.check(self._scope, headers)
            if self._scope["path"] != SESSION:
                raise Refused(404, "sessions are at " + SESSION)
            named = headers.get(SESSION_HEADER)
            session = sessions.get(named) if named else await sessions.begin()
        except (Refused, NoSession, TooMany) as error:
            self._refuse(error)
            return
        self._session = session
        if not self._is_over:
            session.clients, self._is_counted = session.clients + 1, True
        session.touch()
        head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n"
        welcome = frame(encoded(Welcome(session.id, session.last, version)))
        self._transport.write(head.encode() + welcome)
        self._read()

    def _refuse(self, error: Exception) -> None:
        status = error.status if isinstance(error, Refused) else 404 if isinstance(error, NoSession) else 503
        body = json.dumps({"error": str(error)}).encode()
        head = (
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self.shutdown()

    # Frames.

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._session is not None:
            self._read()
        elif len(self._buffer) > MOST_BYTES:
            self.shutdown()

    def _read(self) -> None:
        while not self._is_over and not self._is_full and len(self._buffer) >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if size > MOST_BYTES:
                self._fail(f"a message of {size} bytes is larger than {MOST_BYTES >> 20} MiB")
                return
            if len(self._buffer) < LENGTH_BYTES + size:
                return
            body = bytes(self._buffer[LENGTH_BYTES : LENGTH_BYTES + size])
            del self._buffer[: LENGTH_BYTES + size]
            try:
                request = decoded(body, Request)
            except ValueError as error:
                self._fail(f"the message is not a request: {error}")
                return
            if self._is_asked:
                self._fail("a request came before the answer to the one before")
                return
            session = self._session
            assert session is not None
            body_now = session.answer_at_once(request)
            if body_now is not None:
                self._send(request, body_now)
                continue
            self._is_asked = True
            self._run(self._answer(request))

    async def _answer(self, request: Request) -> None:
        session = self._session
        assert session is not None
        try:
            body = await session.answer(request)
        except ValueError as error:
            self._fail(str(error))
            return
        except asyncio.CancelledError:  # the session ended
            self.shutdown()
            return
        self._is_asked = False
        if request.op == "close" and self._end is not None:
            await self._end(session)
        self._send(request, body)
        if request.op == "close":
            self.shutdown()

    def _send(self, request: Request, body: bytes) -> None:
        try:
            self._transport.write(frame(body))
        except ValueError as error:
            raised = Raised("EnvFault", f"the answer cannot be sent: {error}", "author")
            self._transport.write(frame(encoded(Reply(request.n, raised=raised))))

    def _fail(self, message: str) -> None:
        """Say what is wrong, and hang up; the session stays."""
        self._transport.write(frame(encoded(Reply(0, raised=Raised("ProtocolError", message)))))
        self.shutdown()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._session is not None and self._is_counted:
            self._session.clients -= 1
        self._is_over = True
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """The client does not read its answers: read none of its requests until it does."""
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_full = False
        if not self._is_over:
            self._transport.resume_reading()
            if self._session is not None:
                self._read()

    def shutdown(self) -> None:
        """Hang up; called by uvicorn at the end, too."""
        self._is_over = True
        if not self._transport.is_closing():
            self._transport.close()
