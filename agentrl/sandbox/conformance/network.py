"""Attacks on a network allow-list: around the proxy, and through it to other hosts. Judged by what the host receives.

A backend that refuses an allow-list lets nothing out, so it passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from agentrl.sandbox.base import Network, Sandbox, SandboxError
from agentrl.sandbox.conformance.probes import Ground, Probes, expect

probe = Probes()
_PRELUDE = """
import os, socket
proxy = (lambda at: (at[0], int(at[1])))(os.environ["http_proxy"].rpartition("/")[2].rsplit(":", 1))
def say(text, at=proxy):
    try:
        with socket.create_connection(at, timeout=2) as s:
            s.sendall(text.encode("latin-1"))
            got = b""
            while len(got) < 4096 and b"secret" not in got:
                more = s.recv(4096)
                if not more:
                    break
                got += more
            return got.decode("latin-1")
    except OSError as error:
        return repr(error)
"""


class _Server:
    """A server on this machine that gives every client the same answer and keeps what it received."""

    def __init__(self, answer: bytes, address: str = "127.0.0.1") -> None:
        self._answer = answer
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(0.3)
                    self.heard.append(b"")
                    while piece := connection.recv(1 << 16):
                        self.heard[-1] += piece
                        if b"\r\n\r\n" in self.heard[-1]:
                            break
                    connection.sendall(self._answer)
                    with contextlib.suppress(TimeoutError):
                        while piece := connection.recv(1 << 16):
                            self.heard[-1] += piece

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _answer(status: str, body: str = "", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


@contextlib.contextmanager
def _servers(*answers: bytes, address: str = "127.0.0.1") -> Iterator[list[_Server]]:
    servers = [_Server(answer, address) for answer in answers]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()


@asynccontextmanager
async def _let_out(ground: Ground, *allow: str, private: bool = False) -> AsyncIterator[Sandbox | None]:
    """A sandbox with an allow-list; None if the backend refuses allow-lists."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            started = ground.sandbox(network=Network(allow, private=private))
            sandbox: Sandbox | None = await stack.enter_async_context(started)
        except SandboxError:
            sandbox = None
        yield sandbox


async def _said(sandbox: Sandbox, code: str) -> str:
    result = await sandbox.run_python(_PRELUDE + code)
    expect(result.ok, f"the attack itself broke: {result.error_text[-500:]} {result.detail}")
    return result.text


@probe("a host on the list answers, to a plain request and through a tunnel")
async def allowed_host(ground: Ground) -> None:
    with _servers(_answer("200 OK", "welcome")) as (good,):
        async with _let_out(ground, f"127.0.0.1:{good.port}") as sandbox:
            if sandbox is None:
                return
            where = f"127.0.0.1:{good.port}"
            text = await _said(
                sandbox,
                f"print(say('GET http://{where}/ HTTP/1.1\\r\\n\\r\\n').endswith('welcome'))\n"
                f"print(say('CONNECT {where} HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.1\\r\\n\\r\\n')[-7:])",
            )
    expect(text == "True\nwelcome\n", f"it did not answer: {text}")


@probe("the proxy refuses other ports, other hosts and other spellings of them, in every form of request")
async def other_hosts(ground: Ground) -> None:
    with _servers(_answer("200 OK", "welcome"), _answer("200 OK", "secret")) as (good, bad):
        goals = [
            f"127.0.0.1:{bad.port}", f"localhost:{bad.port}", f"localhost:{good.port}", f"127.1:{bad.port}",
            f"2130706433:{bad.port}", f"0x7f000001:{bad.port}", f"0.0.0.0:{bad.port}", f"[::1]:{bad.port}",
            f"[::ffff:127.0.0.1]:{bad.port}", f"127.0.0.1:{good.port}@127.0.0.1:{bad.port}",
            f"127.0.0.1:{bad.port}#@127.0.0.1:{good.port}", f"127.0.0.1:{bad.port}/?127.0.0.1:{good.port}",
            f"127.0.0.1:{good.port}.example.org:80", f"127.0.0.1:{bad.port}\\@127.0.0.1:{good.port}",
            *(f"{own}:{bad.port}" for own in _own_addresses()),
        ]  # fmt: skip
        code = f"""
for goal in {goals!r}:
    for form in ("CONNECT %s HTTP/1.1", "GET http://%s/ HTTP/1.1", "GET http://%s/ HTTP/1.0", "GET %s HTTP/1.1"):
        got = say(form % goal + "\\r\\nHost: 127.0.0.1:{good.port}\\r\\n\\r\\n")
        if got[9:12] not in ("400", "403"):
            print(goal, form, got[:60])
"""
        async with _let_out(ground, f"127.0.0.1:{good.port}") as sandbox:
            text = "" if sandbox is None else await _said(sandbox, code)
        expect(not text, f"not refused: {text}")
        expect(not bad.heard and not good.heard, f"somebody was reached: {bad.heard} {good.heard}")


def _own_addresses() -> list[str]:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.1", 9))
        return [out.getsockname()[0]]
    return []


def _named_socket(folder: str) -> socket.socket:
    """A listening socket that any process that sees the folder may connect to."""
    named = socket.socket(socket.AF_UNIX)
    named.bind(f"{folder}/socket")
    os.chmod(f"{folder}/socket", 0o777)
    os.chmod(folder, 0o755)
    named.listen()
    return named


@probe("only the proxy can be reached: no direct connection, UDP, name server, abstract or other unix socket")
async def around_the_proxy(ground: Ground) -> None:
    with contextlib.ExitStack() as stack:
        good, bad = stack.enter_context(_servers(_answer("200 OK"), _answer("200 OK", "secret"), address="0.0.0.0"))
        packets = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        packets.bind(("0.0.0.0", 0))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind("\0" + ground.token)
        abstract.listen()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="probe-"))
        named = stack.enter_context(_named_socket(folder))
        code = f"""
for address in ("127.0.0.1", "127.0.0.2", "127.0.0.53", "0.0.0.0", *{_own_addresses()!r}, "1.1.1.1", "169.254.169.254"):
    for port in ({good.port}, {bad.port}, 53, 80):
        try:
            socket.create_connection((address, port), timeout=0.2).close(); print("connected", address, port)
        except OSError:
            pass
    for port in (53, {packets.getsockname()[1]}, proxy[1]):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                s.sendto(b"here", (address, port))
            except OSError:
                pass
for name in ("\\0{ground.token}", "{folder}/socket", "/run/docker.sock", "/run/dbus/system_bus_socket"):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(name); print("connected", name)
        except OSError:
            pass
for name in ("localhost.localdomain", "example.org"):
    try:
        print("resolved", socket.getaddrinfo(name, 80))
    except OSError:
        pass
"""
        async with _let_out(ground, f"127.0.0.1:{good.port}") as sandbox:
            text = "" if sandbox is None else await _said(sandbox, code)
        packets.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            expect(False, f"a packet arrived: {packets.recvfrom(16)}")
        for listener in (abstract, named):
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                expect(False, f"a connection arrived: {listener.accept()}")
        expect(not text, text)
        expect(not good.heard and not bad.heard, "a direct connection arrived")


@probe("a plain request reaches only the host it names, as one request, under that host's name")
async def smuggled_requests(ground: Ground) -> None:
    with _servers(_answer("200 OK", "welcome"), _answer("200 OK", "secret")) as (good, bad):
        where, other = f"127.0.0.1:{good.port}", f"127.0.0.1:{bad.port}"
        second = f"GET http://{other}/ HTTP/1.1\\r\\nHost: {other}\\r\\n\\r\\n"
        code = f"""
start = "POST http://{where}/ HTTP/1.1\\r\\n"
for text in (
    start + "Host: {other}\\r\\n\\r\\n",
    start + "Host: {other}\\r\\nHost: {other}\\r\\n\\r\\n{second}",
    start + "Content-Length: 0\\r\\n\\r\\n{second}",
    start + "Content-Length: 4\\r\\nContent-Length: 400\\r\\n\\r\\nbody{second}",
    start + "Content-Length: 400\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{second}",
    start + "Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{second}",
    start + "Transfer-Encoding: xchunked\\r\\n\\r\\n0\\r\\n\\r\\n{second}",
    start + "X: a\\nHost: {other}\\r\\n\\r\\n",
    start + " Host: {other}\\r\\n\\r\\n",
    start + "Upgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n{second}",
):
    got = say(text)
    if "secret" in got:
        print(repr(text))
"""
        async with _let_out(ground, where) as sandbox:
            text = "" if sandbox is None else await _said(sandbox, code)
            await asyncio.sleep(0.4)
        expect(not text and not bad.heard, f"another host was reached: {text} {bad.heard}")
        for heard in good.heard:
            hosts = [line for line in heard.lower().split(b"\r\n") if line.lstrip().startswith(b"host:")]
            expect(hosts == [b"host: " + where.encode()], f"it went out as {heard!r}")
            expect(heard.count(b"HTTP/1.") == 1, f"more than one request went out: {heard!r}")


@probe("a redirect to a host that is not on the list is refused")
async def redirects(ground: Ground) -> None:
    with _servers(_answer("200 OK", "secret")) as (bad,):
        elsewhere = _answer("302 Found", "", f"Location: http://127.0.0.1:{bad.port}/")
        with _servers(elsewhere) as (good,):
            code = f"""
import urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:{good.port}/", timeout=3).read())
except urllib.error.HTTPError as error:
    print(error.code)
"""
            async with _let_out(ground, f"127.0.0.1:{good.port}") as sandbox:
                text = "403\n" if sandbox is None else await _said(sandbox, code)
        expect(text == "403\n", text)
        expect(not bad.heard, "the redirect was followed")


@probe("a name on the list that stands for this machine or a private network is refused")
async def inner_addresses(ground: Ground) -> None:
    with _servers(_answer("200 OK", "secret"), address="0.0.0.0") as (bad,):
        name = socket.gethostname()
        code = f"""
for name in ("localhost", {name!r}):
    for form in ("CONNECT %s:{bad.port} HTTP/1.1", "GET http://%s:{bad.port}/ HTTP/1.1"):
        got = say(form % name + "\\r\\n\\r\\n")
        if got[9:12] not in ("403", "502"):
            print(name, got[:60])
"""
        async with _let_out(ground, f"localhost:{bad.port}", f"{name}:{bad.port}") as sandbox:
            text = "" if sandbox is None else await _said(sandbox, code)
        expect(not text and not bad.heard, f"this machine was reached: {text}")


@probe("a program that takes every connection blocks no other sandbox, and its own only until it ends")
async def exhausted_proxy(ground: Ground) -> None:
    with _servers(_answer("200 OK", "welcome")) as (good,):
        where = f"127.0.0.1:{good.port}"
        flood = _PRELUDE + "held = [socket.create_connection(proxy) for _ in range(60)]\nprint(len(held))\n"
        ask = f"print(say('GET http://{where}/ HTTP/1.1\\r\\n\\r\\n')[-7:])"
        async with _let_out(ground, where) as sandbox, _let_out(ground, where) as neighbour:
            if sandbox is None or neighbour is None:
                return
            held = asyncio.create_task(sandbox.run_python(flood + "import time; time.sleep(1)"))
            await asyncio.sleep(0.5)
            expect(await _said(neighbour, ask) == "welcome\n", "a neighbour cannot reach what it may")
            await held
            await sandbox.reset()
            expect(await _said(sandbox, ask) == "welcome\n", "the sandbox itself cannot, after the program's end")
