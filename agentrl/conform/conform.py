"""An environment through every door. Owns the list of doors and what happens where one fails."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.conform import docker_door, doors, files, mcp_suite, verifiers_doors
from agentrl.conform.doors import Job
from agentrl.conform.episodes import played
from agentrl.conform.report import ConformReport, Door
from agentrl.conform.tools import how_to_install
from agentrl.env import registry
from agentrl.errors import ConfigError, PackageMissing
from agentrl.trajectory import EnvRef, Trajectory

TOOLS = ".venv-conform"
"""Where external packages are looked for by default."""


def _dialect(name: str, which: str) -> Callable[[Job], Door]:
    """The door of a chat API, which loads a model's parts."""

    def door(job: Job) -> Door:
        try:
            from agentrl.conform.dialects import dialect
        except ImportError as error:
            raise PackageMissing("serve") from error
        return dialect(name, which)(job)

    return door


DOORS: Mapping[str, Callable[[Job], Door]] = {
    "agentrl check": doors.checker,
    "gymnasium": doors.gymnasium,
    "pooled": doors.pooled,
    "served": doors.served,
    "openenv": doors.openenv,
    "mcp (2026-07-28)": doors.mcp("mcp (2026-07-28)"),
    "mcp (2025-11-25)": doors.mcp("mcp (2025-11-25)"),
    **{name: mcp_suite.suite(name) for name in mcp_suite.SUITES},
    "chat completions": _dialect("chat completions", "chat"),
    "responses": _dialect("responses", "responses"),
    "anthropic messages": _dialect("anthropic messages", "messages"),
    "harbor": files.harbor,
    "atif": files.records("atif", "atif"),
    "inspect": files.records("inspect", "inspect_ai"),
    "verifiers traces": files.records("verifiers", "verifiers"),
    "verifiers: our taskset": verifiers_doors.ours,
    "verifiers: as our Env": verifiers_doors.theirs,
    "dockerfile": docker_door.door,
}


def conform(
    env: str | EnvRef,
    *,
    episodes: int = 4,
    pythons: Mapping[str, str] | None = None,
    tools: str = TOOLS,
    base: str = "",
    only: Collection[str] = (),
    on_door: Callable[[Door], None] = lambda door: None,
    **kwargs: Any,
) -> ConformReport:
    """Play the same episodes through every door, and let other frameworks' own tools judge.

    Args:
        env: an id or a reference.
        episodes: through each door.
        pythons: name of a package (`openenv`, `harbor`, ...) -> a Python that has it; packages that cannot share an
            installation are tried that way.
        tools: folder with an installation for each external package, named after it; the present one is used for what
            is not there. Its folder `wheels` has what is installed in the Dockerfile's image.
        base: image on which that one is built, if not the one that the Dockerfile names.
        only: names of doors; all by default.
        on_door: called after each.
        kwargs: given to the constructor.
    Raises: EnvNotFound if there is no such environment; EnvFault if it fails without any door; ConfigError if there is
        no such door.
    """
    unknown = [name for name in only if name not in DOORS]
    if unknown:
        raise ConfigError(f"there is no door {unknown[0]!r}; there is {', '.join(DOORS)}")
    ref = registry.reference(env, **kwargs)
    found: list[Door] = []
    with tempfile.TemporaryDirectory(prefix="agentrl-conform-") as folder:
        job = Job(ref, asyncio.run(_played(ref, episodes)), Path(folder), dict(pythons or {}), tools, base)
        for name, door in DOORS.items():
            if only and name not in only:
                continue
            found.append(_tried(name, door, job))
            on_door(found[-1])
    return ConformReport(str(ref), episodes, tuple(found))


async def _played(ref: EnvRef, count: int) -> list[Trajectory]:
    env = registry.make(ref)
    try:
        return await played(env, count)
    finally:
        await env.aclose()


def _tried(name: str, door: Callable[[Job], Door], job: Job) -> Door:
    try:
        return replace(door(job), name=name)
    except PackageMissing as error:
        return Door(name, "not run", how_to_install(str(error), job.tools))
    except Exception as error:  # whatever a foreign tool raises is its verdict
        return Door(name, "failed", f"{type(error).__name__}: {error}"[:500])
