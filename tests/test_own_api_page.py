"""docs/train-on-your-own-api.md at a small scale: each of its commands, against its own server."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "train-on-your-own-api.md").read_text(encoding="utf-8")
SMALL = {
    "model.hidden_size": 32,
    "model.num_layers": 1,
    "stages.warm_start.num_episodes": 32,
    "stages.warm_start.epochs": 1,
    "stages.before.num_tasks": 4,
    "stages.rl.steps": 1,
    "stages.rl.playing.prompts_per_step": 2,
    "stages.rl.playing.group_size": 4,
    "stages.after.num_tasks": 4,
    "run.tensorboard": "false",
}
pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


class Walk:
    """A folder with the page's files, and the server of the page; commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for code in [*blocks("python"), *blocks("toml")]:
            (folder / code.split()[1]).write_text(code)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        url = {"DESK_URL": f"http://127.0.0.1:{self.port}", "OMP_NUM_THREADS": "1"}
        self.variables = {**os.environ, **url}
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, line: str, *more: str) -> str:
        """One line of the page. Returns what it prints."""
        words = shlex.split(line)
        variables = dict(self.variables)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.variables[name] = value
            return ""
        if words[0] == "python":
            self._serve(words[1])
            return ""
        done = subprocess.run(
            [sys.executable, "-m", *words, *more],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, name: str) -> None:
        self.server = subprocess.Popen(
            [sys.executable, name, str(self.port)], cwd=self.folder, env=self.variables, stderr=subprocess.PIPE
        )
        while True:
            assert self.server.poll() is None, self.server.communicate()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def stop(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.communicate()
            self.server = None


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    made = Walk(tmp_path)
    yield made
    made.stop()


def success(text: str) -> float:
    found: float = json.loads(text)["success"]["mean"]
    return found


def test_the_page_is_walked_command_by_command(walk: Walk) -> None:
    """Every command of the page is known here: a new one fails the test."""
    seen = []
    for line in commands():
        what = " ".join(shlex.split(line)[:3])
        seen.append(what)
        if line.startswith(("export", "python")):
            walk.run(line)
        elif line.startswith("agentrl check"):
            assert "nothing found" in walk.run(line)
        elif line.startswith("agentrl bench") and "--policy" not in line:
            assert "--concurrency 64" in line
            found = json.loads(walk.run(line, "--json"))
            assert (found["success"]["mean"], found["references"]["null"]["success"]["mean"]) == (1.0, 0.0)
        elif line.startswith("agentrl train"):
            walk.run(line, *[word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")])
            assert (walk.folder / "runs" / "desk" / "summary.json").exists()
        elif line.startswith("agentrl bench"):
            assert 0 <= success(walk.run(line, "--tasks", "4", "--no-references", "--json")) <= 1
        elif line.startswith("DESK_TAPE=record"):
            assert success(walk.run(line, "--json")) == 1
            walk.stop()
        else:
            assert line.startswith("DESK_TAPE=replay"), line
            assert success(walk.run(line, "--json")) == 1
    assert len(seen) == 8


def test_sessions_take_at_most_ten_lines() -> None:
    (code,) = [code for code in blocks("python") if code.startswith("# desk.py")]
    lines = [line for line in code.splitlines() if re.search(r"session|reset|seed=", line)]
    assert 1 <= len(lines) <= 10, lines
