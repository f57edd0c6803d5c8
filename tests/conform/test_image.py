"""The image of a Dockerfile, by a docker command that stands in for the real one and serves from this installation."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from agentrl.conform import docker_door, image
from agentrl.conform.doors import Job
from agentrl.conform.episodes import played
from agentrl.env import registry

GUESS = "agentrl/Guess-v0"
DOCKER = """#!{python}
import os, shlex, subprocess, sys
from pathlib import Path

with Path({log!r}).open("a") as log:
    print(*sys.argv[1:], file=log)
if sys.argv[1] == "network":
    sys.exit({bridge})
if sys.argv[1] == "build":
    names = sorted(path.name for path in Path(sys.argv[-1]).iterdir())
    Path({log!r}).with_name("built").write_text(" ".join(names))
    print("no such base")
    sys.exit({build})
if sys.argv[1] == "run":
    assert os.environ["AGENTRL_ENV_TOKEN"]
    serve = [sys.executable, "-m", "agentrl", "serve", {env!r}]
    if "--publish" in sys.argv:
        port = sys.argv[sys.argv.index("--publish") + 1].split(":")[1]
        serve += ["--host", "0.0.0.0", "--port", port, "--allow-host", "*"]
    else:
        serve += sys.argv[sys.argv.index("--host") :]
    os.execv(sys.executable, serve)
"""
OTHER = """
from agentrl.environments.guess import Guess

class Other(Guess):
    async def start(self, task):
        return "Another: " + await super().start(task)
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: object) -> Path:
    """Put a docker command on the path. Returns: what will be written about its calls."""
    log, program = folder / "calls", folder / "bin" / "docker"
    program.parent.mkdir()
    values = {"bridge": 0, "build": 0, "env": GUESS, **given}
    program.write_text(DOCKER.format(python=sys.executable, log=str(log), **values))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return log


def job_of(folder: Path) -> Job:
    episodes = asyncio.run(played(registry.make(GUESS), 2))
    place = folder / "job"
    place.mkdir()
    return Job(registry.reference(GUESS), episodes, place, tools=str(folder / "tools"), base="mine:1")


@pytest.mark.parametrize("bridge", [0, 1])
def test_episodes_over_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bridge: int) -> None:
    log = stand_in(tmp_path, monkeypatch, bridge=bridge)
    (tmp_path / "tools" / image.WHEELS).mkdir(parents=True)
    (tmp_path / "tools" / image.WHEELS / "own-1-py3-none-any.whl").touch()
    found = docker_door.door(job_of(tmp_path))
    assert found.outcome == "green"
    assert "over its container 2 records equal" in found.detail
    assert (tmp_path / "built").read_text() == "Dockerfile own-1-py3-none-any.whl"
    calls = log.read_text().splitlines()
    assert any(call.startswith("build") and "BASE=mine:1" in call for call in calls)
    run = next(call for call in calls if call.startswith("run"))
    assert ("--network host" in run) == bool(bridge)
    assert [call.split()[:3] for call in calls[-2:]] == [
        ["rm", "--force", calls[-2].split()[2]],
        ["image", "rm", "--force"],
    ]


def test_other_episodes_in_the_container_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.py"
    other.write_text(OTHER)
    stand_in(tmp_path, monkeypatch, env=f"{other}:Other")
    found = docker_door.door(job_of(tmp_path))
    assert found.outcome == "failed"
    assert "2 of 2 episodes differ" in found.detail
    assert "fault" not in found.detail


def test_an_image_that_cannot_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = stand_in(tmp_path, monkeypatch, build=1)
    with pytest.raises(RuntimeError, match="docker build: no such base"):
        docker_door.door(job_of(tmp_path))
    assert "run" not in [call.split()[0] for call in log.read_text().splitlines()]
