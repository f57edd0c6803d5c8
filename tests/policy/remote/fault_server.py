"""A server over real sockets that fails on purpose, in any API: which request fails how follows from a seed alone.

Requests that it does not fail are answered by a bot that adds two numbers.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.policy.remote.wire_bots import add_numbers, error

SHARES: Mapping[str, float] = {
    "429 with Retry-After": 0.05,
    "429": 0.05,
    "500": 0.05,
    "malformed": 0.02,
    "truncated call": 0.04,
    "slow": 0.02,
    "dropped before": 0.02,
    "dropped within": 0.02,
}
SLOW_S = 1.3


class FaultServer(ThreadingHTTPServer):
    """The server; use it under `with`.

    Args:
        kind: of the API.
        shares: how many requests fail in which way.
        only: text of the requests that may fail; empty for all.
        seed: with the content of a request and how often it came, this decides its fate.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, kind: str, shares: Mapping[str, float] = SHARES, only: str = "", seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind, self.shares, self.only, self.seed = kind, shares, only.encode(), seed
        self.lock = threading.Lock()
        self.faults: Counter[str] = Counter()
        self.arrivals: list[float] = []
        self._seen: Counter[bytes] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fate(self, content: bytes) -> str:
        """How this request fails; empty for not at all."""
        with self.lock:
            self.arrivals.append(time.monotonic())
            self._seen[content] += 1
            draw = random.Random(f"{self.seed} {self._seen[content]} {content!r}").random()
        for fault, share in self.shares.items() if self.only in content else ():
            draw -= share
            if draw < 0:
                return fault
        return ""

    def turn(self, body: Mapping[str, Any], *, truncated: bool = False) -> dict[str, Any]:
        """The bot's turn. Args: truncated: the arguments of its call lack their end."""
        return add_numbers(self.kind, body, truncated=truncated)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: clients hang up on a slow server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        fault, body = self.server.fate(content), json.loads(content)
        made = self.server.turn(body, truncated=fault == "truncated call")
        if fault == "truncated call" and made == self.server.turn(body):
            fault = ""  # the bot made no call
        with self.server.lock:
            self.server.faults[fault] += 1
        self.fail(fault, json.dumps(made))

    def fail(self, fault: str, made: str) -> None:
        kind = self.server.kind
        match fault:
            case "429 with Retry-After":
                self.answer(429, json.dumps(error(kind, "Too many requests", "rate_limit")), {"Retry-After": "0.05"})
            case "429":
                self.answer(429, json.dumps(error(kind, "Too many requests", "rate_limit")))
            case "500":
                self.answer(500, json.dumps(error(kind, "It broke", "api_error")))
            case "malformed":
                self.answer(200, made[: len(made) // 2])
            case "slow":
                self.begin(200, len(made))
                self.wfile.write(made[:10].encode())
                self.wfile.flush()
                time.sleep(SLOW_S)
                self.wfile.write(made[10:].encode())
            case "dropped before":
                self.drop()
            case "dropped within":
                self.begin(200, len(made))
                self.wfile.write(made[:10].encode())
                self.wfile.flush()
                self.drop()
            case _:
                self.answer(200, made)

    def answer(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.begin(status, len(text.encode()), headers)
        self.wfile.write(text.encode())

    def begin(self, status: int, size: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(size), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def drop(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
