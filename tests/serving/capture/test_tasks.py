"""Tasks of agents with tools of their own, scored by a program that is asked over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import TaskError
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


TASKS = {
    "tasks.jsonl": '\ufeff{"text": "one", "split": "eval"}\n\n{"text": "two"}\n',
    "tasks.json": '[{"text": "one", "split": "eval"}, {"text": "two"}]',
    "tasks.csv": "text,split\none,eval\ntwo,train\n",
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_read_as_those_of_every_file_are(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TASKS[name], encoding="utf-8")
    tasks = AgentTasks(file=str(tmp_path / name)).tasks
    assert [[task.data["text"] for task in tasks.split(split)] for split in ("eval", "train")] == [["one"], ["two"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"text": "a"}\n{"text": 1}', "line 2: the field 'text' is missing"),
        ('{"text": "a", "text": "b"}', "line 1"),
        ('{"text": NaN}', "line 1: not JSON"),
        ("[1]", "line 1: a task is a JSON object"),
        ("\n", "has no tasks"),
    ],
)
def test_a_mistake_in_a_file_of_tasks_is_named_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(text)
    with pytest.raises(TaskError, match=says):
        AgentTasks(file=str(tmp_path / "tasks.jsonl"))
