"""Tasks of agents with tools of their own, scored by a program that is asked over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from agentrl.serving.capture.agents import Exit
from agentrl.serving.capture.tasks import AgentTasks


@pytest.fixture
def asked() -> Iterator[tuple[str, list[Any]]]:
    """The address of a program that gives a reward of 0.5, and what it was asked."""
    bodies: list[Any] = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = b'{"reward": 0.5}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("answer", ["done", "half a pair: \ud800", "\x00\u2028", None])
async def test_the_program_is_asked_whatever_the_answer_is(asked: tuple[str, list[Any]], answer: str | None) -> None:
    url, bodies = asked
    tasks = AgentTasks(reward=url)
    await tasks.areset(seed=0)
    tasks.ended = Exit(0)
    assert await tasks.score(answer) == 0.5
    assert bodies == [{"task": {"id": tasks.task.id, "text": ""}, "exit_status": 0, "answer": answer}]
