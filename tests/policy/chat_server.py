"""A small OpenAI-compatible server over real sockets, run as its own process; standard library only.

`python chat_server.py [PORT]` prints its port. Each request gets the next entry of a script (POST /script). When the
script is empty, the server plays a model that adds the two numbers of "a+b" with the tool `add`. GET /log gives the
requests so far and the most that were in flight at the same time.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-secret-0123456789"


class ServerState:
    """What the control endpoints see, under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear([])

    def clear(self, script: list[dict[str, Any]]) -> None:
        self.script, self.requests = list(script), []  # type: ignore[var-annotated]
        self.in_flight, self.most_in_flight = 0, 0


STATE = ServerState()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with STATE.lock:
            self.reply(200, {"requests": STATE.requests, "most_in_flight": STATE.most_in_flight})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/script":
            with STATE.lock:
                STATE.clear(body)
            self.reply(200, {})
            return
        with STATE.lock:
            STATE.requests.append({"path": self.path, "headers": dict(self.headers), "body": body, "at": time.time()})
            STATE.in_flight += 1
            STATE.most_in_flight = max(STATE.most_in_flight, STATE.in_flight)
            entry = STATE.script.pop(0) if STATE.script else {"json": add_numbers(body)}
        try:
            self.play(entry)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with STATE.lock:
                STATE.in_flight -= 1

    def play(self, entry: Mapping[str, Any]) -> None:
        time.sleep(entry.get("delay_s", 0))
        if entry.get("drop") == "before":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif entry.get("drop") == "within":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            content = entry.get("json", entry.get("text", ""))
            self.reply(entry.get("status", 200), content, entry.get("headers", {}))

    def reply(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def add_numbers(body: Mapping[str, Any]) -> dict[str, Any]:
    """The bot's completion: a call of `add` for a question, the tool's result as the answer."""
    messages = body["messages"]
    if messages[-1]["role"] == "tool":
        return completion(messages[-1]["content"])
    a, b = map(int, messages[-1]["content"].split("+"))
    function = {"name": "add", "arguments": json.dumps({"a": a, "b": b})}
    return completion(None, [{"id": "call_abc", "type": "function", "function": function}])


def completion(content: str | None, tool_calls: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """A chat completion in OpenAI's form; `message`, `choice` and `top` in `more` add fields at their level."""
    message = {"role": "assistant", "content": content, **more.get("message", {})}
    if tool_calls:
        message["tool_calls"] = tool_calls
    finish = "tool_calls" if tool_calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish, **more.get("choice", {})}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage, **more.get("top", {})}


class ChatServer:
    """The server as a child process; `kill` and `start` again keep the port."""

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def script(self, *entries: dict[str, Any]) -> None:
        self._call("/script", json.dumps(entries).encode())

    def log(self) -> dict[str, Any]:
        return self._call("/log")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request["body"] for request in self.log()["requests"]]

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", body, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
