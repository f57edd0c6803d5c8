"""The door of the Dockerfile: its text, the command in it, and the image where docker can build one.

The command that the image runs is run here first, on a free port of this machine, and the episodes are played over it.
Then they are played over a container.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from agentrl.conform import image
from agentrl.conform.doors import Job, compared
from agentrl.conform.episodes import again
from agentrl.conform.process import serving, toml_of
from agentrl.conform.report import Door
from agentrl.env.base import Env
from agentrl.serving.env_image import dockerfile, run_options
from agentrl.serving.envs.client import connect
from agentrl.trajectory import Trajectory

_NAME = "dockerfile"


def door(job: Job) -> Door:
    """The text, then its command, then the image."""
    place = job.ref.id.rpartition(":")[0]
    if place.endswith(".py"):
        return Door(
            _NAME, "does not apply", "a file's folder is built: `agentrl serve --dockerfile` in it writes the text"
        )
    text = dockerfile(job.ref.id, [f"{key}={toml_of(value)}" for key, value in job.ref.kwargs.items()])
    problem = problem_of(text)
    if problem:
        return Door(_NAME, "failed", problem)
    with serving(_here(_command(text)), job.folder) as (url, token):
        found = asyncio.run(_played(connect(url, token), job.episodes))
    seen = compared(_NAME, job, found)
    if seen.outcome != "green":
        return seen
    why = image.no_docker()
    if why:
        detail = (
            f"its text is right, and over its command {len(found)} records are equal, but no image was built: {why}"
        )
        return Door(_NAME, "not run", f"{detail}. Install docker and start its daemon", seen.hashes)
    return _contained(text, job)


def _contained(text: str, job: Job) -> Door:
    """Build the image, and play the episodes over a container of it."""
    folder = image.folder_for(text, job.folder / "image", job.tools)
    options = run_options(job.ref.id)
    with image.built(folder, job.base) as name, image.container(name, job.folder, options) as (url, token):
        seen = compared(_NAME, job, asyncio.run(_played(connect(url, token), job.episodes)))
    return replace(seen, detail=f"the image was built; over its container {seen.detail}")


def problem_of(text: str) -> str:
    """What is wrong with a Dockerfile: empty if it pins packages, serves without root and holds no token."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split(" ", 1)[0] for line in lines]
    if words[:2] != ["ARG", "FROM"] or words[-1:] != ["ENTRYPOINT"]:
        return "it does not begin with ARG and FROM and end with ENTRYPOINT"
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    if not users or users[-1] in ("root", "0"):
        return "it serves as root"
    installed = re.findall(r'"([^"]+)"', next(line for line in lines if "pip install" in line))
    loose = [package for package in installed if not re.search(r"==[0-9*]", package)]
    if loose:
        return f"it installs {loose[0]} without a version"
    if "AGENTRL_ENV_TOKEN" in "".join(lines) or "--no-token" in text:
        return "it holds a token, or serves without one"
    return ""


def _command(text: str) -> list[str]:
    found: list[str] = json.loads(text.rpartition("ENTRYPOINT ")[2])
    return found


def _here(command: Sequence[str]) -> list[str]:
    """The image's command for this machine: by this Python, on loopback, at a free port."""
    words = [sys.executable, "-m", *command]
    words[words.index("--host") + 1], words[words.index("--port") + 1] = "127.0.0.1", "0"
    return words


async def _played(env: Env, episodes: Sequence[Trajectory]) -> list[Trajectory]:
    try:
        return await again(env, episodes)
    finally:
        await env.aclose()
