"""A server that does not connect is an error at once; any answer is accepted, an error status too."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from agentrl.bench.runner import run_bench, server_of
from agentrl.errors import ConfigError
from agentrl.policy.by_name import PolicySetup
from agentrl.wire.reachable import check_reachable
from tests.bench.toys import Adder


@pytest.fixture
def free_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


async def test_a_password_in_the_address_is_not_shown(free_url: str) -> None:
    address = free_url.replace("://", "://user:hunter2@") + "?api_key=hunter2"
    with pytest.raises(ConfigError, match=r"no server answers at http://127\.") as caught:
        await check_reachable(address, tries=1)
    assert "hunter2" not in str(caught.value)


def test_a_missing_server_ends_the_benchmark_before_an_episode(free_url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no server answers at {free_url} \(.+\): start it"):
        run_bench(Adder, "openai:m", setup=PolicySetup(base_url=free_url), out=tmp_path / "out")
    assert not (tmp_path / "out" / "trajectories.jsonl").exists()
    assert "no server answers" in (tmp_path / "out" / "summary.json").read_text()


async def test_any_answer_will_do() -> None:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        await check_reachable(f"http://127.0.0.1:{server.server_port}/v1", tries=1)
    finally:
        server.shutdown()
        server.server_close()


async def test_a_server_that_comes_up_meanwhile_is_waited_for(monkeypatch: pytest.MonkeyPatch, free_url: str) -> None:
    servers: list[HTTPServer] = []

    async def pause(seconds: float) -> None:
        server = HTTPServer(("127.0.0.1", int(free_url.rsplit(":", 1)[1].partition("/")[0])), Refusing)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)

    monkeypatch.setattr("agentrl.wire.reachable.asyncio.sleep", pause)
    await check_reachable(free_url, tries=2)
    assert len(servers) == 1
    servers[0].shutdown()
    servers[0].server_close()


def test_which_policies_have_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert server_of("oracle", PolicySetup()) is None
    assert server_of("openai:m", PolicySetup(base_url="http://x/v1")) == "http://x/v1"
    assert server_of("openai:m", PolicySetup()) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://y/v1")
    assert server_of("openai:m", PolicySetup()) == "http://y/v1"
