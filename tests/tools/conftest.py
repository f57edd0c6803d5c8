"""A real HTTP server on 127.0.0.1, which logs each request and answers from a script or with an echo; and databases."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentrl.tools.sql import SqlDatabase

SETUP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL);
INSERT INTO item VALUES (1, 'tea', 2.5), (2, 'mug', 7.0), (3, NULL, 1.0);
"""


@dataclass
class Canned:
    """One scripted answer. `drip_s` waits between the bytes of the body; `hang_up` closes without one."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    drip_s: float = 0.0
    hang_up: bool = False


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class Server:
    """`script` answers the next requests in order; after it `rest` answers, which echoes the request as JSON."""

    def __init__(self, port: int = 0) -> None:
        self.script: list[Canned] = []
        self.rest: Callable[[Seen], Canned] = echo
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.start(port)

    def start(self, port: int = 0) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are written apart: each answer would take 40 ms

            def handle_any(self) -> None:
                outer.answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self.http = _Http(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Seen(handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()}, body)
        with self.lock:
            self.seen.append(request)
            canned = self.script.pop(0) if self.script else self.rest(request)
        if canned.hang_up:
            handler.close_connection = True
            return
        handler.send_response(canned.status)
        for name, value in {**canned.headers, "Content-Length": str(len(canned.body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        try:
            for index in range(len(canned.body)) if canned.drip_s else ():
                handler.wfile.write(canned.body[index : index + 1])
                time.sleep(canned.drip_s)
            if not canned.drip_s:
                handler.wfile.write(canned.body)
        except OSError:
            handler.close_connection = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def echo(request: Seen) -> Canned:
    content = {"method": request.method, "path": request.path, "body": request.body.decode()}
    return Canned(body=json.dumps(content).encode())


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def canned():
    return Canned


@pytest.fixture
def closings(monkeypatch):
    """The databases that were opened and then closed by a call; Python 3.13 warns of those that are only dropped."""
    closed: list[str] = []
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def close(self) -> None:
            closed.append("closed")
            super().close()

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs))
    return closed


@pytest.fixture
def readable():
    with SqlDatabase(setup=SETUP) as database:
        yield database


@pytest.fixture
def writable():
    with SqlDatabase(setup=SETUP, writable=True) as database:
        yield database
