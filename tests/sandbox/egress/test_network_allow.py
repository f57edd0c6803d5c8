"""An allow-list in bubblewrap: what honest programs get, what is left afterwards, and that off is as before."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.environments.terminal import Terminal
from agentrl.sandbox import Network, SandboxFault, SandboxLimits, SandboxSpec, make_backend
from agentrl.sandbox.egress.proxy import PORT
from agentrl.sandbox.egress.thread import NAME
from agentrl.sandbox.pool import clear_pools
from tests.sandbox.descriptors import open_sockets

ROOT = Path(__file__).resolve().parents[3]
FETCH = "import sys, urllib.request\nprint(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
LISTENERS = "print([line.split()[1] for line in open('/proc/net/tcp') if line.split()[3] == '0A'])"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            self.server.asked.set()  # type: ignore[attr-defined]
            self.server.leave.wait(20)  # type: ignore[attr-defined]
        body = f"hello {self.path} at {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(len(body)).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = False  # closing it waits for its pages, so no later test meets their sockets
    server.asked, server.leave = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.leave.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def spec_for(site: http.server.ThreadingHTTPServer, **more: object) -> SandboxSpec:
    return SandboxSpec(network=Network((f"127.0.0.1:{site.server_port}",), **more))


def proxy_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


def until(happened: object, wait_s: float = 3.0) -> None:
    deadline_s = time.monotonic() + wait_s
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


async def test_python_programs_sessions_and_calls_reach_the_allowed_host(site):
    url = f"http://127.0.0.1:{site.server_port}/page"
    hello = f"hello /page at 127.0.0.1:{site.server_port}"
    code = f"import urllib.request\ntext = urllib.request.urlopen({url!r}).read().decode()"
    async with await make_backend("bubblewrap").start(spec_for(site)) as sandbox:
        assert (await sandbox.run_python(f"{code}\nprint(text)")).text == f"{hello}\n"
        assert (await sandbox.run_python(f"{code}\ntext", session="s")).text == f"{hello!r}\n"
        assert (await sandbox.exec(["python3", "-c", FETCH, url])).text == f"{hello}\n"
        called = await sandbox.call(f"def f():\n    {code.replace(chr(10), chr(10) + '    ')}\n    return text", "f")
        assert called.value == hello
        post = f"import urllib.request\nprint(urllib.request.urlopen({url!r}, bytes(10**6)).read())"
        assert (await sandbox.run_python(post)).text == "b'1000000'\n"


async def test_what_is_refused_says_why(site):
    async with await make_backend("bubblewrap").start(spec_for(site)) as sandbox:
        result = await sandbox.exec(["python3", "-c", FETCH, "https://example.org/"])
        assert "403 Forbidden: example.org:443 is not on the allow-list of this sandbox" in result.error_text
        result = await sandbox.exec(["python3", "-c", FETCH, "http://example.org/"])
        assert "HTTP Error 403: Forbidden: example.org:80 is not on the allow-list" in result.error_text


async def test_a_server_inside_the_sandbox_is_reached_without_the_proxy():
    code = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 8000), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen("http://localhost:8000/").status, urllib.request.urlopen("http://127.0.0.1:8000/").status)
"""

    network = Network(("example.org",))
    async with await make_backend("bubblewrap").start(SandboxSpec(network=network)) as sandbox:
        assert (await sandbox.run_python(code)).text == "200 200\n"


async def test_off_means_no_proxy_no_socket_and_no_variable():
    before = open_sockets()
    async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
        assert len(open_sockets() - before) == 1  # the worker's
        assert proxy_threads() == []
        result = await sandbox.run_python(
            f"import os\nprint([n for n in os.environ if 'prox' in n.lower()])\n{LISTENERS}"
        )
        assert result.text == "[]\n[]\n"
        assert not Path("/etc/ssl/certs").is_dir() or (await sandbox.exec(["ls", "/etc/ssl"])).exit_code == 2


async def test_on_means_one_listening_socket_inside(site):
    async with await make_backend("bubblewrap").start(spec_for(site)) as sandbox:
        assert (await sandbox.run_python(LISTENERS)).text == f"['0100007F:{PORT:04X}']\n"


async def test_programs_can_check_certificates(site):
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("this machine has no certificates")
    code = "import ssl\nprint(ssl.create_default_context().cert_store_stats()['x509_ca'] > 10)"
    async with await make_backend("bubblewrap").start(spec_for(site)) as sandbox:
        assert (await sandbox.run_python(code)).text == "True\n"


async def test_closing_leaves_no_thread_no_socket_and_no_connection(site):
    url = f"http://127.0.0.1:{site.server_port}/slow"
    gc.collect()
    before = open_sockets()
    backend = make_backend("bubblewrap")
    sandboxes = [await backend.start(spec_for(site)) for _ in range(3)]
    assert proxy_threads() == [NAME]
    task = asyncio.create_task(sandboxes[0].exec(["python3", "-c", FETCH, url]))
    await asyncio.to_thread(site.asked.wait, 5)
    await sandboxes[1].close()
    assert NAME in proxy_threads()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    for sandbox in sandboxes:
        await sandbox.close()
    until(lambda: not proxy_threads())
    site.leave.set()  # until here the page holds the server's end
    until(lambda: not open_sockets() - before)


async def test_a_sandbox_that_is_lost_leaves_nothing(site):
    sandbox = await make_backend("bubblewrap").start(spec_for(site))
    await sandbox.run_python("print(1)")
    process = sandbox._process  # type: ignore[attr-defined]
    sandbox._channel.close()  # type: ignore[attr-defined]
    del sandbox
    gc.collect()
    process.kill()
    await process.ended()
    until(lambda: not proxy_threads())


def test_one_sandbox_serves_one_event_loop_after_the_other(site):
    # About several event loops, so it makes its own.
    url = f"http://127.0.0.1:{site.server_port}/"
    with asyncio.Runner() as first:
        sandbox = first.run(make_backend("bubblewrap").start(spec_for(site)))
    for _ in range(2):
        with asyncio.Runner() as other:
            assert other.run(sandbox.exec(["python3", "-c", FETCH, url])).text.startswith("hello /")
    with asyncio.Runner() as last:
        last.run(sandbox.close())


async def test_a_reset_drops_connections_and_gives_a_new_share(site):
    fetch = f"""
import urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:{site.server_port}/", bytes(60_000)).read())
except OSError as error:
    print(error)
"""

    async with await make_backend("bubblewrap").start(spec_for(site, max_bytes=100_000)) as sandbox:
        assert (await sandbox.run_python(fetch)).text == "b'60000'\n"
        await sandbox.run_python(fetch)
        spent = (await sandbox.run_python(fetch)).text
        assert "403: Forbidden: this sandbox has had its 100000 bytes" in spent
        await sandbox.reset()
        assert (await sandbox.run_python(fetch)).text == "b'60000'\n"


def test_killing_the_host_process_leaves_no_way_out(site, tmp_path):
    """A program that goes on inside, were there one, would find nobody behind the port."""
    program = """
import asyncio, os, sys, time
from agentrl.sandbox import SandboxLimits, Network, SandboxSpec, make_backend
async def main():
    spec = SandboxSpec(limits=SandboxLimits(wall_s=60), network=Network((sys.argv[1],)))
    sandbox = await make_backend("bubblewrap").start(spec)
    print("ready", flush=True)
    await sandbox.exec(["python3", "-c", "import time; time.sleep(60)", sys.argv[2]])
asyncio.run(main())
"""
    token = f"net{os.getpid()}-{time.monotonic_ns()}"
    host = subprocess.Popen(
        [sys.executable, "-c", program, f"127.0.0.1:{site.server_port}", token], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        until(lambda: len(marked(token)) > 1)
    finally:
        host.kill()
        host.wait()
        assert host.stdout is not None
        host.stdout.close()
    until(lambda: not marked(token))


def marked(token: str) -> list[str]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if token.encode() in (Path(entry.path) / "cmdline").read_bytes():
                    found.append(entry.name)
    return found


async def test_a_worker_that_cannot_listen_is_a_fault_that_says_so():
    async with await make_backend("bubblewrap").start(SandboxSpec(network=Network(("example.org",)))) as sandbox:
        with pytest.raises(SandboxFault, match=rf"port {PORT} in there \(.*OSError: .*Address already in use\)"):
            await sandbox._open_proxy()  # type: ignore[attr-defined]
        assert (await sandbox.run_python("print(1)")).status == "infra"
    until(lambda: not proxy_threads())


async def test_an_environment_sets_it_for_its_sandboxes(site):
    class Connected(Terminal):
        sandbox_network = Network((f"127.0.0.1:{site.server_port}",))

    async def run(kind: type[Terminal]) -> str:
        env = kind(backend="bubblewrap")
        await env.areset(seed=0)
        sandbox = await env.sandbox()
        result = await sandbox.exec(["python3", "-c", FETCH, f"http://127.0.0.1:{site.server_port}/"])
        await env.aclose()
        await clear_pools()
        return result.text

    assert (await run(Connected)).startswith("hello / at")
    assert await run(Terminal) == ""
    until(lambda: not proxy_threads())


async def test_limits_of_a_request_hold_while_it_waits_for_the_network(site):
    url = f"http://127.0.0.1:{site.server_port}/slow"
    limits = SandboxLimits(wall_s=1.0)
    async with await make_backend("bubblewrap").start(spec_for(site)) as sandbox:
        started_s = time.monotonic()
        result = await sandbox.exec(["python3", "-c", FETCH, url], limits=limits)
        assert result.status == "timeout"
        assert time.monotonic() - started_s < 1.5
