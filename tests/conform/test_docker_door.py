"""The Dockerfile: what is wrong with a text, and the episodes over the command that the image would run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentrl.conform import docker_door, image
from agentrl.conform.doors import Job
from agentrl.conform.episodes import played
from agentrl.env import registry
from agentrl.serving.env_image import dockerfile

GUESS = "agentrl/Guess-v0"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("USER served", "USER root", "it serves as root"),
        ("USER served\n", "", "it serves as root"),
        ("==0.1.0", "", "without a version"),
        ("EXPOSE", "ENV AGENTRL_ENV_TOKEN=secret\nEXPOSE", "it holds a token"),
        ("ARG", "RUN true\nARG", "does not begin with ARG"),
    ],
)
def test_what_is_wrong_with_a_text(old: str, new: str, problem: str) -> None:
    text = dockerfile(GUESS)
    assert docker_door.problem_of(text) == ""
    assert old in text
    assert problem in docker_door.problem_of(text.replace(old, new, 1))


def test_the_command_serves_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "no_docker", lambda: "there is none")
    episodes = asyncio.run(played(registry.make(GUESS), 2))
    job = Job(registry.reference(GUESS), episodes, tmp_path)
    found = docker_door.door(job)
    assert found.outcome == "not run"
    assert "over its command 2 records are equal" in found.detail
    assert found.hashes == job.hashes
