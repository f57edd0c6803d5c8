"""`bench`, `compare`, `audit`, `report` and `view` work without network: they look nothing up.

Each command runs as a process of its own, in which an audit hook refuses and records every name that is looked up and
every address that is reached, but those of this machine. The hook holds in the children of the command as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import agentrl
from agentrl.policy.model_folder import save
from agentrl.policy.tiny import build_tiny
from tests.cli.looked_up import SITE
from tests.policy.chat_server import ChatServer, completion

pytestmark = pytest.mark.slow
ENV = "agentrl/Calculator-v0"
OURS = re.compile(r"http://(www\.w3\.org/2000/svg|127\.0\.0\.1|localhost)\b")


class Offline:
    """Runs commands; `asked` is what they wanted to reach outside this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "asked.txt"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        self.log.write_text("")

    @property
    def environment(self) -> Mapping[str, str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {**given, "PYTHONPATH": str(self.folder / "site"), "LOOKED_UP": str(self.log), "OMP_NUM_THREADS": "1"}

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()

    def run(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "agentrl", *words]
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    """A folder with two benchmarks, `one` and `two`."""
    found = Offline(tmp_path_factory.mktemp("offline"))
    for name, policy in (("one", "oracle"), ("two", "random")):
        found.run("bench", ENV, "--policy", policy, "--tasks", "4", "--trials", "2", "--out", name)
    return found


def outside(text: str) -> list[str]:
    """The addresses in a page that lead to another machine."""
    return [found for found in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<>]*", text) if not OURS.match(found)]


def test_the_hook_sees_a_look_up_and_a_connection(tmp_path: Path) -> None:
    tried = Offline(tmp_path)
    code = """
import contextlib, socket, subprocess, sys
with contextlib.suppress(OSError):
    socket.getaddrinfo("example.com", 80)
with contextlib.suppress(OSError):
    socket.socket().connect(("192.0.2.1", 80))
subprocess.run([sys.executable, "-c", "import socket; socket.gethostbyname('a.example')"])
"""
    subprocess.run([sys.executable, "-c", code], env=tried.environment, capture_output=True, timeout=60, check=True)
    assert [line.split()[1] for line in tried.asked] == ["example.com", "192.0.2.1", "a.example"]


@pytest.mark.parametrize(
    "words",
    [
        ("bench", ENV, "--tasks", "2", "--out", "three"),
        ("bench", "suite.toml", "--policy", "random", "--out", "four"),
        ("compare", "one", "two", "--report", "compared.html"),
        ("compare", "one", "two", "--report", "compared.svg"),
        ("audit", ENV, "--tasks", "3"),
        ("audit", "suite.toml", "--tasks", "3"),
        ("report", "one"),
        ("report", "one", "two", "--out", "both.html"),
        ("rescore", "one", "--rubric", "recorded", "--out", "again"),
        ("check", ENV),
        ("envs",),
    ],
    ids=" ".join,
)
def test_a_command_looks_nothing_up(words: tuple[str, ...], offline: Offline) -> None:
    (offline.folder / "suite.toml").write_text(f'[envs.sums]\nid = "{ENV}"\nnum_tasks = 2\n')
    offline.run(*words)
    assert offline.asked == []


def test_benchmarks_of_a_server_and_of_a_model_folder_ask_this_machine_alone(offline: Offline) -> None:
    save(offline.folder / "model", *build_tiny(["1 + 2"], hidden_size=16, num_layers=1))
    offline.run("bench", ENV, "--policy", "local:model", "--tasks", "1", "--no-references", "--out", "local")
    server = ChatServer()
    server.start()
    try:
        body = json.dumps([{"json": completion("I do not know.")}]).encode()
        httpx.post(server.url.removesuffix("/v1") + "/script", content=body).raise_for_status()
        served = ("--policy", "openai:bot", "--base-url", server.url, "--tasks", "1", "--no-references")
        offline.run("bench", ENV, *served, "--out", "served")
    finally:
        server.kill()
    assert offline.asked == []


def test_view_looks_nothing_up_and_its_pages_lead_nowhere(offline: Offline) -> None:
    command = [sys.executable, "-m", "agentrl", "view", ".", "--no-browser", "--json"]
    page = subprocess.Popen(
        command,
        cwd=offline.folder,
        env=offline.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert page.stdout is not None
        url = json.loads(page.stdout.readline())["url"]
        with httpx.Client(base_url=url.partition("?")[0], timeout=60) as client:
            texts = [client.get(url).text]
            run = next(one for one in client.get("/api/runs").json()["runs"] if one["name"] == "one")
            base = f"/api/runs/{run['id']}"
            asked = ["/static/app.js", "/static/page.css", "/static/look.css", base, f"{base}/curves"]
            texts += [client.get(path).text for path in (*asked, f"{base}/episodes", f"{base}/episodes/1")]
            fork = client.post("/api/forks", json={"run": run["id"], "line": 1, "turn": 0}).json()
            assert client.get(f"/api/forks/{fork['id']}").status_code == 200
    finally:
        page.terminate()
        page.communicate(timeout=60)
    assert [outside(text) for text in texts] == [[]] * len(texts)
    assert offline.asked == []


def test_no_page_and_no_picture_names_another_machine(offline: Offline) -> None:
    offline.run("report", "one", "two", "--out", "pages.html")
    offline.run("compare", "one", "two", "--report", "picture.svg")
    for name in ("pages.html", "picture.svg"):
        assert outside((offline.folder / name).read_text()) == []
    root = Path(agentrl.__file__).parent
    sources = [*(root / "bench" / "views").rglob("*.jinja"), *(root / "viewer" / "static").iterdir()]
    assert len(sources) > 15
    assert {source.name: outside(source.read_text()) for source in sources if outside(source.read_text())} == {}


def test_an_address_elsewhere_is_noticed() -> None:
    assert outside('<script src="//cdn.example.com/x.js">') == ["//cdn.example.com/x.js"]
    assert outside("url(https://fonts.example.com/a)") == ["https://fonts.example.com/a)"]
    kept: Any = outside('xmlns="http://www.w3.org/2000/svg" http://127.0.0.1:80/')
    assert kept == []
