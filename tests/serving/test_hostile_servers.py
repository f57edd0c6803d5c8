"""Every server against every attack: refused, nothing told, and the next honest client is served."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from agentrl.serving import app as chat_app
from agentrl.serving import listener
from agentrl.serving.capture import app as capture_app
from agentrl.serving.envs import guard as env_guard
from agentrl.viewer import guard as viewer_guard
from tests.serving.faces import FACES, Face, answer_to, opened

_SOON_S = 1.0
_MANY = 200


@pytest.fixture(scope="module", params=list(FACES))
def face(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    """A server whose deadlines are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "HEAD_S", _SOON_S)
        patch.setattr(capture_app, "BODY_S", _SOON_S)
        patch.setattr(viewer_guard, "_BODY_S", _SOON_S)
        patch.setattr(env_guard, "_BODY_S", _SOON_S)
        patch.setattr(chat_app, "BODY_S", _SOON_S)
        with FACES[request.param](tmp_path_factory.mktemp("face")) as found:
            yield found


@pytest.fixture(autouse=True)
def goes_on(face: Face) -> Iterator[None]:
    yield
    face.goes_on()


def head(method: str, path: str, *headers: str, host: str = "", port: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or '127.0.0.1:' + str(port)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def get(face: Face, path: str, *headers: str, host: str = "") -> bytes:
    return head("GET", path, "Connection: close", *headers, host=host, port=face.port)


def post(face: Face, body: bytes, *headers: str, kind: str = "application/json", length: int | None = None) -> bytes:
    size = f"Content-Length: {len(body) if length is None else length}"
    more = (bearer(face.token), f"Content-Type: {kind}", size, "Connection: close", *headers)
    return head("POST", face.post, *more, port=face.port) + body


def chunked(face: Face, size: int) -> bytes:
    more = (bearer(face.token), "Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
    return head("POST", face.post, *more, port=face.port) + f"{size:x}\r\n".encode() + b" " * size + b"\r\n0\r\n\r\n"


Attack = Callable[[Face], bytes]
ATTACKS: dict[str, tuple[Attack, tuple[int, ...]]] = {
    "no token": (lambda f: get(f, f.path), (401,)),
    "an empty token": (lambda f: get(f, f.path, "Authorization: Bearer "), (401,)),
    "a wrong token": (lambda f: get(f, f.path, bearer("wrong")), (401,)),
    "a longer token": (lambda f: get(f, f.path, bearer(f.token + "x")), (401,)),
    "a shorter token": (lambda f: get(f, f.path, bearer(f.token[:-1])), (401,)),
    "a token of other bytes": (lambda f: get(f, f.path, "Authorization: Bearer \xff\xfe"), (401,)),
    "another scheme": (lambda f: get(f, f.path, f"Authorization: Basic {f.token}"), (401,)),
    "a token in the query": (lambda f: get(f, f.path + "?access_token=" + f.token), (401,)),
    "somebody else's session": (lambda f: get(f, f.foreign, bearer(f.token)), (401, 404)),
    "a body that is too large": (lambda f: post(f, b" ", length=1 << 30), (413,)),
    "a negative length": (lambda f: post(f, b"", length=-1), (400, 413)),
    "a length that is no number": (lambda f: post(f, b"{}", "Content-Length: many"), (400, 413)),
    "a head without end": (lambda f: b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000, (400, 0)),
    "a header that is too large": (lambda f: get(f, f.path, "X: " + "a" * 300_000), (400, 0)),
    "many headers": (lambda f: get(f, f.path, *[f"X-{n}: {n}" for n in range(30_000)]), (400, 0)),
    "no JSON": (lambda f: post(f, b"{"), (400, 415, 422)),
    "other bytes": (lambda f: post(f, b"\xff\xfe\x00"), (400, 415, 422)),
    "no object": (lambda f: post(f, b"[1]"), (400, 422)),
    "JSON without end": (lambda f: post(f, b"[" * 200_000), (400, 422)),
    "JSON that is deep": (lambda f: post(f, b'{"messages":' * 20_000 + b"1" + b"}" * 20_000), (400, 422)),
    "a number without end": (lambda f: post(f, b'{"seed": 1' + b"0" * 200_000 + b"}"), (400, 422)),
    "a form": (lambda f: post(f, b"a=b", kind="application/x-www-form-urlencoded"), (415,)),
    "a text": (lambda f: post(f, b"{}", kind="text/plain"), (415,)),
    "no HTTP": (lambda f: b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", (400,)),
    "no host": (lambda f: f"GET {f.path} HTTP/1.1\r\n{bearer(f.token)}\r\n\r\n".encode(), (400, 421)),
    "two hosts": (lambda f: get(f, f.path, "Host: evil.example"), (400, 401, 421)),
    "a path upwards": (lambda f: get(f, "/../../../../etc/passwd", bearer(f.token)), (400, 401, 404)),
    "an encoded path upwards": (
        lambda f: get(f, f.path + "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", bearer(f.token)),
        (401, 404),
    ),
    "a path with a null": (lambda f: get(f, f.path + "/%00", bearer(f.token)), (400, 401, 404, 405)),
    "two slashes": (lambda f: get(f, "/" + f.path, bearer(f.token)), (401, 404)),
    "an absolute URL": (lambda f: get(f, "http://evil.example" + f.path), (400, 401, 404, 421)),
    "a static path upwards": (lambda f: get(f, "/static/..%2f..%2fguard", bearer(f.token)), (401, 404)),
    "another method": (lambda f: head("TRACE", f.path, "Connection: close", port=f.port), (400, 401, 405, 415, 421)),
    "a foreign host": (lambda f: get(f, f.path, host="evil.example"), (400, 401, 421)),
    "a foreign host that ends like ours": (lambda f: get(f, f.path, host="127.0.0.1.evil.example"), (400, 401, 421)),
    "a foreign page": (lambda f: get(f, f.path, "Origin: http://evil.example"), (401, 403)),
    "a WebSocket without a token": (
        lambda f: (
            get(f, "/ws", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
            .replace(b"Connection: close", b"Connection: Upgrade")
            .replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Version: 13\r\n\r\n")
        ),
        (400, 401, 403, 404),
    ),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_is_refused(face: Face, name: str) -> None:
    attack, statuses = ATTACKS[name]
    found = answer_to(face, attack(face))
    status = int(found.split(" ", 2)[1]) if found.startswith("HTTP/1.1 ") else 0
    assert status in statuses, found[:300]
    told_nothing(face, found)


def told_nothing(face: Face, found: str) -> None:
    assert "Traceback" not in found
    assert not re.search(r"site-packages|\.py\b|File \"|/home/|/root/|/tmp/", found), found[-300:]
    for secret in face.secrets:
        assert secret not in found


def test_a_foreign_page_with_the_token(face: Face) -> None:
    """A browser sends a cookie or a leaked token along: the page's name is refused where a page could have it."""
    for more in ({"host": "evil.example"}, {}):
        headers = () if more else ("Origin: http://evil.example",)
        found = answer_to(face, get(face, face.path, bearer(face.token), *headers, **more))
        allowed = ("200",) if face.keyless else ()
        assert found.split(" ", 2)[1] in ("400", "403", "421", *allowed), found[:200]
        told_nothing(face, found)


def test_a_body_in_pieces_that_is_too_large(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_app, "_MOST_BYTES", 1 << 16)
    found = answer_to(face, chunked(face, 9 << 20))
    assert found == "" or found.split(" ", 2)[1] in ("400", "413", "422"), found[:200]
    told_nothing(face, found)


def test_slow_heads_and_bodies_are_hung_up_on(face: Face) -> None:
    parts = [
        b"",
        b"GET / HTTP/1.1\r\nHo",
        head("GET", face.path, bearer(face.token), port=face.port)[:-2],
        post(face, b'{"a"', length=100),
    ]
    connections = []
    try:
        for number in range(_MANY):
            connection = opened(face)
            connection.sendall(parts[number % len(parts)])
            connections.append(connection)
        until = time.monotonic() + 30
        for connection in connections:
            connection.settimeout(max(0.1, until - time.monotonic()))
            said = b""
            try:
                while part := connection.recv(1 << 16):
                    said += part
            except ConnectionResetError:
                pass
            assert b"200 OK" not in said
            told_nothing(face, said.decode("latin-1"))
    finally:
        for connection in connections:
            connection.close()


def test_a_head_that_comes_byte_by_byte_is_hung_up_on(face: Face) -> None:
    with opened(face) as connection:
        connection.settimeout(0.2)
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                connection.sendall(b"X")
                if not connection.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - began < 10


def test_a_thousand_idle_clients(face: Face) -> None:
    connections = []
    try:
        for _ in range(1000):
            connection = opened(face)
            connection.sendall(get(face, face.path))
            connections.append(connection)
        until = time.monotonic() + 60
        for connection in connections:
            connection.settimeout(max(0.1, until - time.monotonic()))
            said = connection.recv(1 << 16)
            assert said[9:12] in (b"401", b"503"), said[:200]
            told_nothing(face, said.decode("latin-1"))
    finally:
        for connection in connections:
            connection.close()
