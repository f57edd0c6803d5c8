"""The proxy alone, without a sandbox: what it lets through and what it refuses, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address

import pytest

from agentrl.sandbox import Network
from agentrl.sandbox.egress import proxy as proxy_module
from agentrl.sandbox.egress.proxy import MAX_CONNECTIONS, Proxy, proxy_variables
from agentrl.sandbox.egress.thread import NAME
from tests.sandbox.descriptors import open_sockets

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine\n"
_WAIT_S = 5.0


class Server:
    """Listens on a loopback address; answers every connection once and keeps what it has heard."""

    def __init__(self, family: int = socket.AF_INET, address: str = "127.0.0.1", echo: bool = False) -> None:
        self._listener = socket.create_server((address, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        self._echo = echo
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        index = len(self.heard)
        self.heard.append(b"")
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_WAIT_S if self._echo else 0.1)
            while piece := self._piece(connection):
                self.heard[index] += piece
                if self._echo:
                    connection.sendall(piece)
            if not self._echo:
                connection.sendall(ANSWER)

    def _piece(self, connection: socket.socket) -> bytes:
        try:
            return connection.recv(1 << 16)
        except TimeoutError:  # it has said what it wants to say
            return b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def echo() -> Iterator[Server]:
    server = Server(echo=True)
    yield server
    server.close()


class Names:
    """A resolver of our own: one answer after the other for every name, and a note of what it was asked."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[object]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [ip_address(word) for word in answer.split()]


@contextlib.asynccontextmanager
async def opened(*allow: str, names: Names | None = None, **more: object) -> AsyncIterator[tuple[str, int]]:
    """A proxy on a socket of this machine; yields its address. It has a thread of its own, so clients may block."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    proxy = Proxy(listener, Network(allow, **more), names or Names("192.0.2.1"))
    try:
        yield address
    finally:
        proxy.close()
        await proxy.ended()


def say(address: object, content: bytes, end: bool = False) -> bytes:
    """Send something to the proxy and read to the end."""
    with socket.create_connection(address, timeout=_WAIT_S) as client:
        client.sendall(content)
        if end:
            client.shutdown(socket.SHUT_WR)
        return read(client)


def read(client: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            got += piece
    return got


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def gone(what: object) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while what():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def proxy_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


async def test_a_plain_request_goes_out_as_one_request_to_where_it_says(server):
    where = f"127.0.0.1:{server.port}"
    request = (
        f"POST http://{where}/a/b?c=d HTTP/1.1\r\nHost: elsewhere.test\r\nhost: third.test\r\nX-Own: 1\r\n"
        "Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\n"
        "Content-Length: 4\r\n\r\nbodyGET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    )
    async with opened(where) as address:
        assert say(address, request.encode()) == ANSWER
    assert server.heard == [
        f"POST /a/b?c=d HTTP/1.1\r\nHost: {where}\r\nX-Own: 1\r\nContent-Length: 4\r\n"
        "Connection: close\r\n\r\nbody".encode()
    ]


async def test_a_body_in_chunks_goes_out_without_what_follows_it(server):
    where = f"127.0.0.1:{server.port}"
    start = f"PUT http://{where} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    chunks = "4;note=1\r\nWiki\r\n00a\r\n\r\n\r\nGET / \r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    async with opened(where) as address:
        assert say(address, (start + chunks).encode()) == ANSWER
    head, _, body = server.heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT / HTTP/1.1\r\nHost: ")
    assert body == b"4\r\nWiki\r\na\r\n\r\n\r\nGET / \r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked", "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: +4", "Content-Length: 4, 4", "Content-Length: 0x4", "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Content-Length: 4\r\n folded: yes", "no colon", "X: a\rb", "X: a\nHost: b", "X: a\0b", "Host: a\r\n: b",
    ],
)  # fmt: skip
async def test_a_request_that_can_be_read_in_two_ways_goes_nowhere(server, fields):
    where = f"127.0.0.1:{server.port}"
    async with opened(where) as address:
        answer = say(address, f"POST http://{where}/ HTTP/1.1\r\n{fields}\r\n\r\nbody".encode())
    assert status(answer) == 400
    assert server.heard == []


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_a_chunk_without_a_size_ends_the_request(server, version):
    where = f"127.0.0.1:{server.port}"
    async with opened(where) as address:
        start = f"POST http://{where}/ {version}\r\nTransfer-Encoding: chunked\r\n\r\n"
        say(address, (start + "-1\r\nGET /smuggled HTTP/1.1\r\n\r\n").encode())
    assert not any(b"smuggled" in text for text in server.heard)


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1", "GET http://{allowed}@evil.test/ HTTP/1.1", "GET http://evil.test#{allowed}/ HTTP/1.1",
        "GET http://evil.test\\@{allowed}/ HTTP/1.1", "GET https://{allowed}/ HTTP/1.1", "GET {allowed}/ HTTP/1.1",
        "GET ftp://{allowed}/ HTTP/1.1", "CONNECT {allowed}/ HTTP/1.1", "CONNECT http://{allowed} HTTP/1.1",
        "CONNECT 127.0.0.1 HTTP/1.1", "GET  http://{allowed}/ HTTP/1.1", "GET http://{allowed}/ HTTP/2.0",
        "get http://{allowed}/ HTTP/1.1", "\x16\x03\x01", "SSH-2.0-client", "PRI * HTTP/2.0", "",
        "CONNECT 2130706433:{port} HTTP/1.1", "CONNECT 127.1:{port} HTTP/1.1", "CONNECT 0x7f000001:{port} HTTP/1.1",
    ],
)  # fmt: skip
async def test_what_is_no_request_for_a_proxy_is_refused(server, line):
    allowed = f"127.0.0.1:{server.port}"
    names = Names("127.0.0.1")
    async with opened(allowed, names=names, private=True) as address:
        answer = say(address, line.format(allowed=allowed, port=server.port).encode("latin-1") + b"\r\n\r\n")
    assert status(answer) == 400
    assert (server.heard, names.asked) == ([], [])


@pytest.mark.parametrize("form", ["CONNECT {} HTTP/1.1", "GET http://{}/ HTTP/1.1"])
@pytest.mark.parametrize(
    "where", ["127.0.0.1:{other}", "127.0.0.2:{port}", "localhost:{port}", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}",
              "0.0.0.0:{port}", "example.org:443", "127.0.0.1.:1"],
)  # fmt: skip
async def test_what_is_not_on_the_list_is_refused_by_name_and_never_looked_up(server, form, where):
    where = where.format(port=server.port, other=server.port % 60000 + 1)
    names = Names("127.0.0.1")
    async with opened(f"127.0.0.1:{server.port}", names=names) as address:
        answer = say(address, f"{form.format(where)}\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    assert status(answer) == 403
    assert b"is not on the allow-list of this sandbox\r\n" in answer.partition(b"Content-Type")[0]
    assert f"allowed are 127.0.0.1:{server.port}".encode() in answer
    assert (server.heard, names.asked) == ([], [])


async def test_a_tunnel_carries_bytes_both_ways_until_both_ends_are_silent(echo):
    async with opened(f"127.0.0.1:{echo.port}") as address, contextlib.AsyncExitStack() as stack:
        client = stack.enter_context(socket.create_connection(address, timeout=_WAIT_S))
        client.sendall(f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\nHost: x\r\n\r\nearly".encode())
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        got = b""
        while len(got) < len(established) + 5:
            got += client.recv(1 << 16)
        assert got == established + b"early"
        content = os.urandom(300_000)
        sender = threading.Thread(target=lambda: (client.sendall(content), client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read(client) == content
        sender.join()
    assert echo.heard == [b"early" + content]


async def test_ipv6_is_spelled_in_brackets():
    try:
        server = Server(socket.AF_INET6, "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with opened(f"[::1]:{server.port}") as address:
        assert say(address, f"GET http://[0::1]:{server.port}/ HTTP/1.1\r\n\r\n".encode()) == ANSWER
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.heard[0]
    server.close()


async def test_a_name_is_resolved_here_once_and_the_checked_address_is_used(server):
    names = Names("127.0.0.1", "169.254.169.254")
    async with opened(f"good.test:{server.port}", names=names, private=True) as address:
        assert say(address, f"GET http://GOOD.test.:{server.port}/ HTTP/1.1\r\n\r\n".encode()) == ANSWER
        assert names.asked == ["good.test"]
        assert status(say(address, f"GET http://good.test:{server.port}/ HTTP/1.1\r\n\r\n".encode())) == 403
    assert len(server.heard) == 1
    assert f"Host: good.test:{server.port}\r\n".encode() in server.heard[0]


@pytest.mark.parametrize(
    ("found", "private"),
    [("127.0.0.1", False), ("::ffff:127.0.0.1", False), ("169.254.169.254", False), ("169.254.169.254", True),
     ("10.0.0.1 127.0.0.1", False), ("0.0.0.0", True), ("::", True), ("fd00:ec2::254", True)],
)  # fmt: skip
async def test_a_name_that_stands_for_an_inner_address_is_refused(server, found, private):
    names = Names(found)
    async with opened(f"rebound.test:{server.port}", names=names, private=private) as address:
        answer = say(address, f"CONNECT rebound.test:{server.port} HTTP/1.1\r\n\r\n".encode())
    assert status(answer) == 403
    assert b"rebound.test stands for a" in answer
    assert server.heard == []


async def test_of_several_addresses_only_the_good_ones_are_tried(server):
    names = Names("169.254.169.254 127.0.0.1")
    async with opened(f"mixed.test:{server.port}", names=names, private=True) as address:
        assert say(address, f"GET http://mixed.test:{server.port}/ HTTP/1.1\r\n\r\n".encode()) == ANSWER


async def test_a_wildcard_stands_for_names_below_it(server):
    names = Names("127.0.0.1")
    async with opened(f"*.good.test:{server.port}", names=names, private=True) as address:
        assert say(address, f"GET http://a.b.good.test:{server.port}/ HTTP/1.1\r\n\r\n".encode()) == ANSWER
        for name in ("good.test", "notgood.test", "good.test.evil.test"):
            assert status(say(address, f"GET http://{name}:{server.port}/ HTTP/1.1\r\n\r\n".encode())) == 403
    assert names.asked == ["a.b.good.test"]


async def test_what_does_not_answer_is_a_bad_gateway():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def fails(host: str) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    async with opened(f"127.0.0.1:{port}", "missing.test", names=fails) as address:
        answer = say(address, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
        assert status(answer) == 502
        assert b"Connection refused" in answer
        answer = say(address, b"CONNECT missing.test:443 HTTP/1.1\r\n\r\n")
        assert status(answer) == 502
        assert b"missing.test:443 cannot be reached: Name or service not known" in answer


async def test_a_redirect_is_the_programs_own_affair_and_its_goal_is_refused(server, monkeypatch):
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/secret\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setitem(globals(), "ANSWER", moved)
    async with opened(f"127.0.0.1:{server.port}") as address:
        answer = say(address, f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode())
        assert answer == moved
        assert status(say(address, b"GET http://169.254.169.254/secret HTTP/1.1\r\n\r\n")) == 403


async def test_a_long_header_is_refused_and_a_slow_one_is_dropped(server, monkeypatch):
    async with opened(f"127.0.0.1:{server.port}") as address:
        assert status(say(address, b"GET http://x/ HTTP/1.1\r\nX: " + b"a" * 20_000)) == 431
        assert status(say(address, b"A" * 100_000)) == 431
        monkeypatch.setattr(proxy_module, "_HEAD_S", 0.2)
        assert say(address, b"GET http://x") == b""
    assert server.heard == []


@pytest.mark.parametrize("value", [b" " * 15_000 + b"\x01", b" \t" * 7_500 + b"\x01", b"a " * 7_500 + b"\x01"])
async def test_blanks_in_a_header_do_not_hold_the_host_up(server, value):
    async with opened(f"127.0.0.1:{server.port}") as address:
        before_s = time.process_time()
        assert status(say(address, b"GET http://x/ HTTP/1.1\r\nX:" + value + b"\r\n\r\n")) == 400
        assert time.process_time() - before_s < 1  # the square of the blanks took 3 s


async def test_a_program_that_hangs_up_early_harms_nothing(server):
    async with opened(f"127.0.0.1:{server.port}") as address:
        assert say(address, b"GET http://x", end=True) == b""
        socket.create_connection(address).close()
        assert say(address, f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\n\r\n".encode()) == ANSWER


async def test_bytes_are_counted_both_ways_and_capped(echo):
    async with opened(f"127.0.0.1:{echo.port}", max_bytes=100_000) as address:
        connect = f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\n\r\n".encode()
        with socket.create_connection(address, timeout=_WAIT_S) as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(connect + bytes(500_000))
            got = len(read(client))
        assert got < 100_000
        answer = say(address, connect)
        assert status(answer) == 403
        assert b"has had its 100000 bytes" in answer
    assert sum(map(len, echo.heard)) <= 100_000


async def test_one_sandbox_holds_only_so_many_connections(echo):
    connect = f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\n\r\n".encode()
    async with opened(f"127.0.0.1:{echo.port}") as address, contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(address, timeout=_WAIT_S))
            client.sendall(b"CONN")
        time.sleep(0.3)
        answer = say(address, connect)
        assert status(answer) == 503
        assert f"{MAX_CONNECTIONS} connections are open".encode() in answer
        client.close()
        deadline_s = time.monotonic() + _WAIT_S
        while status(say(address, connect + b"x", end=True)) != 200:
            assert time.monotonic() < deadline_s


async def test_closing_drops_everything_and_ends_the_thread(echo):
    before = open_sockets()
    with contextlib.ExitStack() as stack:
        async with opened(f"127.0.0.1:{echo.port}") as address, opened("other.test") as other:
            client = stack.enter_context(socket.create_connection(address, timeout=_WAIT_S))
            client.sendall(f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\n\r\n".encode())
            assert b"200" in client.recv(100)
            stack.enter_context(socket.create_connection(other, timeout=_WAIT_S))
            assert proxy_threads() == [NAME]
        assert read(client) == b""
        for place in (address, other):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(place, timeout=_WAIT_S)
    gone(proxy_threads)
    gone(lambda: open_sockets() - before)


async def test_a_proxy_that_is_closed_at_once_leaves_nothing():
    for _ in range(20):
        listener = socket.create_server(("127.0.0.1", 0))
        proxy = Proxy(listener, Network(("example.org",)))
        client = socket.create_connection(listener.getsockname())
        proxy.close()
        proxy.close()
        await proxy.ended()
        proxy.renew()
        client.close()
        assert listener.fileno() == -1
    gone(proxy_threads)


async def test_another_episode_finds_no_connection_and_its_full_share(echo):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    proxy = Proxy(listener, Network((f"127.0.0.1:{echo.port}",), max_bytes=1000))
    connect = f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\n\r\n".encode()
    try:
        with socket.create_connection(address, timeout=_WAIT_S) as client:
            client.sendall(connect + bytes(900))
            assert b"200" in client.recv(10_000)
            proxy.renew()
            read(client)
        assert say(address, connect + b"again", end=True).endswith(b"again")
    finally:
        proxy.close()
        await proxy.ended()


def test_a_forked_process_can_have_a_proxy_of_its_own(server):
    # About processes: each of the two makes an event loop of its own.
    where = f"127.0.0.1:{server.port}"
    proxy = Proxy(socket.create_server(("127.0.0.1", 0)), Network((where,)))

    async def ask() -> bytes:
        async with opened(where) as address:
            return say(address, f"GET http://{where}/ HTTP/1.1\r\n\r\n".encode())

    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if asyncio.run(ask()) == ANSWER else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    proxy.close()
    asyncio.run(proxy.ended())


def test_variables_name_the_proxy_and_the_hosts_to_reach_without_it():
    assert proxy_variables(Network()) == {}
    variables = proxy_variables(Network(("example.org",)))
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://127.0.0.1:3128"
    assert variables["no_proxy"] == "localhost,127.0.0.1,::1"
    # An entry for the host's own loopback is meant for the proxy.
    assert proxy_variables(Network(("127.0.0.1:80", "[::1]:80")))["NO_PROXY"] == "localhost"
