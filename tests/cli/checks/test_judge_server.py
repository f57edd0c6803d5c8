"""A judge behind a server: what real models answer, and what a server that fails does to the score."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from tests.policy.chat_server import completion


class Grader(BaseHTTPRequestHandler):
    """Gives everything 8 points as models do: in a fence, with words around it, and at first without the object."""

    seen: list[dict[str, Any]]
    fails: tuple[int, ...] = ()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        status = self.fails[len(self.seen) - 1] if len(self.seen) <= len(self.fails) else 200
        code = re.search(r'"code": "(\w+)"', body["messages"][0]["content"])
        assert code is not None
        text = f'Let me see.\n```json\n{{"code": "{code[1]}", "reason": "fine", "score": 8}}\n```'
        if len(body["messages"]) == 2 and len(self.seen) % 2:
            text = "8 out of 10"
        payload = json.dumps(completion(text) if status == 200 else {"error": {"message": "no"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Grader]]]:
    handler = type("Handler", (Grader,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}/v1", handler
        made.shutdown()
        thread.join()


def bench(url: str, out: Path, *more: str) -> Result:
    judge = ("--judge", "openai:grader", "--rubric", "Is it polite?", "--judge-base-url", url, "--judge-chat")
    words = ("--tasks", "2", "--no-references", "--out", str(out), "--json", *judge, "max_backoff_s=0.001", *more)
    return CliRunner().invoke(main, ["bench", "agentrl/Calculator-v0", *words])


def test_answers_of_real_models_are_read(server: tuple[str, type[Grader]], tmp_path: Path):
    url, grader = server
    grader.fails = (429, 503)
    done = bench(url, tmp_path / "b", "--judge-max-tokens", "99")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["judge"]
    assert (told["judge"], told["score"]["mean"], told["n_judged"]) == ("openai:grader", 0.8, 2)
    assert {body["max_tokens"] for body in grader.seen} == {99}
    assert {body["temperature"] for body in grader.seen} == {0.0}
    asked = len(grader.seen)
    again = json.loads(bench(url, tmp_path / "b", "--judge-max-tokens", "99").stdout)["judge"]
    assert (again, len(grader.seen)) == (told, asked)


def test_a_server_that_is_down_costs_the_verdicts_and_not_the_benchmark(
    server: tuple[str, type[Grader]], tmp_path: Path
):
    url, grader = server
    grader.fails = (500,) * 100
    done = bench(url, tmp_path / "b", "--judge-chat", "max_retries=1")
    assert done.exit_code == 3, done.output
    told = json.loads(done.stdout)
    assert told["success"]["mean"] == 1.0
    assert (told["judge"]["failed"], told["judge"]["score"]["mean"]) == ({"server": 2}, None)
    assert "gave no verdict on 2 of 2 episodes (2 server)" in told["warnings"][0]
    grader.fails = ()
    assert json.loads(bench(url, tmp_path / "b").stdout)["judge"]["failed"] == {}


def test_a_wrong_key_ends_the_judging_with_a_message(server: tuple[str, type[Grader]], tmp_path: Path):
    url, grader = server
    grader.fails = (401,) * 100
    done = bench(url, tmp_path / "b")
    assert done.exit_code == 1
    told = json.loads(done.stdout)["error"]
    assert told["type"] == "ConfigError"
    assert told["message"].startswith(f"the judge openai:grader: {url}/chat/completions refused the request: 401")
    assert len(grader.seen) <= 2
    grader.fails = ()
    assert json.loads(bench(url, tmp_path / "b").stdout)["judge"]["n_judged"] == 2
