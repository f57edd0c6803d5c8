"""Clients that mean harm: each is refused, nothing is told, and the server goes on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from agentrl.errors import ConfigError
from agentrl.serving.envs.client import connect
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.serving.envs.sessions import Bounds
from agentrl.serving.envs.wire import SESSION, Request, TaskForm, encoded, frame
from agentrl.trajectory import EnvRef
from tests.serving.envs.conftest import ODD

TOKEN = "secret-of-this-server"


@pytest.fixture(scope="module")
def server() -> Iterator[EnvServer]:
    options = ServeOptions(port=0, token=TOKEN, bounds=Bounds(sessions=8, idle_s=600), request_s=0.5)
    with EnvServer(EnvRef(ODD), options) as found:
        yield found


@pytest.fixture(autouse=True)
def it_goes_on(server: EnvServer) -> Iterator[None]:
    yield
    env = connect(server.url, TOKEN)
    (message,), _ = env.reset(seed=1, options={"task": "train-0"})
    assert message.content == "task 1"
    env.close()


def opened(server: EnvServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def answer(server: EnvServer, text: str) -> str:
    """All that the server says to some bytes, until it hangs up or waits."""
    with opened(server) as connection:
        connection.sendall(text.encode("latin-1"))
        connection.settimeout(3)
        found = b""
        try:
            while part := connection.recv(1 << 16):
                found += part
        except TimeoutError:
            pass
        return found.decode("latin-1")


def request(path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1", body: str = "") -> str:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body])


def upgrade(*headers: str, path: str = SESSION, host: str = "127.0.0.1") -> str:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: agentrl-env", *headers]
    return "\r\n".join([*lines, "", ""])


AUTH = f"Authorization: Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (request("/agentrl/v1"), 401),
        (request("/agentrl/v1", "Authorization: Bearer wrong"), 401),
        (request("/agentrl/v1", f"Authorization: Basic {TOKEN}"), 401),
        (request("/agentrl/v1", f"Authorization: Bearer {TOKEN}x"), 401),
        (request("/agentrl/v1/tasks/train", "Authorization: Bearer \xff\xfe"), 401),
        (upgrade(), 401),
        (upgrade("Authorization: Bearer wrong"), 401),
        (request("/agentrl/v1", AUTH, host="evil.example"), 421),
        (request("/agentrl/v1", AUTH, host="127.0.0.1.evil.example"), 421),
        (upgrade(AUTH, host="evil.example"), 421),
        (request("/agentrl/v1", AUTH, "Origin: http://evil.example"), 403),
        (upgrade(AUTH, "Origin: null"), 403),
        (upgrade(AUTH, path="/agentrl/v1/../v1/session"), 404),
        (upgrade(AUTH, "agentrl-session: someone-elses"), 404),
        (request("/agentrl/v1/tasks/../../etc/passwd", AUTH), 404),
        (request("/agentrl/v1/tasks/%2e%2e%2f%2e%2e%2fetc%2fpasswd", AUTH), 404),
        (request("/agentrl/v1/tasks/nothing", AUTH), 404),
        (request("/agentrl/v1/tasks/train?from=-1", AUTH), 400),
        (request("/agentrl/v1/tasks/train?from=99999999999999999", AUTH), 400),
        (request("/agentrl/v1", AUTH, "Content-Length: 99999999999", method="POST"), 413),
        (request("/agentrl/v1", AUTH, "Content-Type: text/plain", "Content-Length: 2", method="POST", body="{}"), 415),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    ],
)
def test_what_is_refused(server: EnvServer, text: str, status: int) -> None:
    found = answer(server, text)
    assert found.startswith(f"HTTP/1.1 {status} "), found[:200]
    for secret in (TOKEN, "Traceback", "/root/", "tests/serving"):
        assert secret not in found


def test_a_head_without_end_is_hung_up_on(server: EnvServer) -> None:
    with opened(server) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(b"a" * 20_000_000)


def test_a_slow_head_is_hung_up_on(server: EnvServer) -> None:
    with opened(server) as connection:
        began = time.monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert connection.recv(100) == b""
        assert 0.3 < time.monotonic() - began < 8


def test_a_second_slow_head_on_a_kept_connection_is_hung_up_on(server: EnvServer) -> None:
    with opened(server) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n{AUTH}\r\n\r\n".encode())
        assert b"200 OK" in connection.recv(1000)
        connection.sendall(b"GET /health HT")
        while connection.recv(1000):
            pass


def _is_whole(found: bytes) -> bool:
    return len(found) >= 4 and len(found) >= 4 + int.from_bytes(found[:4], "big")


def talk(server: EnvServer, *bodies: bytes, session: str = "") -> tuple[bytes, str]:
    """What the server says after an upgrade to some bytes, and the session."""
    headers = [AUTH, *([f"agentrl-session: {session}"] if session else [])]
    with opened(server) as connection:
        connection.sendall(upgrade(*headers).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        _, _, rest = head.partition(b"\r\n\r\n")
        while len(rest) < 4 or len(rest) < 4 + int.from_bytes(rest[:4], "big"):
            rest += connection.recv(4096)
        size = int.from_bytes(rest[:4], "big")
        welcome, found = json.loads(rest[4 : 4 + size]), rest[4 + size :]
        for body in bodies:
            connection.sendall(body)
        connection.settimeout(3)
        try:
            while not _is_whole(found) and (part := connection.recv(1 << 16)):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
        return found, welcome["session"]


def closed(server: EnvServer, session: str, last: int) -> None:
    talk(server, frame(encoded(Request(last + 1, "close"))), session=session)


@pytest.mark.parametrize(
    ("bodies", "words"),
    [
        ([(1 << 31).to_bytes(4, "big")], b"is larger than 8 MiB"),
        ([frame(b"not json")], b"not a request"),
        ([frame(b"[" * 100_000)], b"not a request"),
        ([frame(b'{"n":1,"op":"__init__"}')], b"not a request"),
        ([frame(b'{"n":1,"op":"reset","more":1}')], b"not a request"),
        ([frame(b'{"n":5,"op":"reset"}')], b"came after request 0"),
        ([frame(b'{"n":1,"op":"reset"}') + frame(b'{"n":2,"op":"step"}')], b"before the answer"),
    ],
)
def test_messages_that_are_none(server: EnvServer, bodies: list[bytes], words: bytes) -> None:
    found, session = talk(server, *bodies)
    assert words in found
    closed(server, session, 1 if b'"op":"step"' in bodies[0] else 0)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Request(1, "load", saved=1, session="someone-elses"), "no longer has that state"),
        (Request(1, "reset", limits={"max_turns": -1}), "max_turns must be"),
        (Request(1, "reset", limits={"__class__": 1}), "unexpected keyword"),
        (Request(1, "reset", task=TaskForm("train-0", data={"n": 1000}, fingerprint="0")), "another content"),
        (Request(1, "step"), "call reset before step"),
    ],
)
def test_requests_that_ask_for_too_much(server: EnvServer, asked: Request, words: str) -> None:
    found, session = talk(server, frame(encoded(asked)))
    assert words.encode() in found
    closed(server, session, 1)


@pytest.mark.parametrize("name", ["__class__", "aclose", "score", "_agentrl_recall"])
def test_only_demonstrators_can_be_asked(server: EnvServer, name: str) -> None:
    _, session = talk(server, frame(encoded(Request(1, "reset"))))
    found, _ = talk(server, frame(encoded(Request(2, "demonstrate", name=name))), session=session)
    assert b"no demonstrator" in found
    closed(server, session, 2)


def test_an_instance_of_an_episode_that_was_left_serves_nobody_else(server: EnvServer) -> None:
    env = connect(server.url, TOKEN)
    env.reset(seed=1)
    env.close()
    found, session = talk(server, frame(encoded(Request(1, "step"))))
    assert b"call reset before step" in found
    closed(server, session, 1)


def test_as_many_sessions_as_there_may_be(server: EnvServer) -> None:
    envs = [connect(server.url, TOKEN) for _ in range(8)]
    for env in envs:
        env.reset(seed=1)
    found = answer(server, upgrade(AUTH))
    assert found.startswith("HTTP/1.1 503 ")
    assert "8 sessions" in found
    for env in envs:
        env.close()


def test_a_thousand_idle_connections(server: EnvServer) -> None:
    connections = []
    try:
        for _ in range(1000):
            connection = opened(server)
            connection.sendall(b"GET /agentrl/v1/session HTTP/1.1\r\n")
            connections.append(connection)
        deadline = time.monotonic() + 30
        for connection in connections:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            assert connection.recv(100) == b""
    finally:
        for connection in connections:
            connection.close()
    assert len(server.sessions) == 0


def test_a_session_that_is_idle_ends() -> None:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, token=TOKEN, bounds=Bounds(idle_s=0.2))) as short:
        env = connect(short.url, TOKEN)
        env.reset(seed=1)
        deadline = time.monotonic() + 10
        while len(short.sessions) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(short.sessions) == 0
        env.close()


def test_without_a_token_only_this_machine_may_ask() -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        EnvServer(EnvRef(ODD), ServeOptions(host="0.0.0.0", port=0, token=""))
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, token="")) as openly:
        env = connect(openly.url, "")
        env.reset(seed=1)
        env.close()
        assert answer(openly, request("/agentrl/v1", host="evil.example")).startswith("HTTP/1.1 421 ")
