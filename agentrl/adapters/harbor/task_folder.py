"""Harbor's task folders (task.toml, schema 1): what one holds, and why one is refused. Runs nothing."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl.adapters.harbor.dockerfile import FileContent, TaskRefused, World, read_tree, world_of
from agentrl.sandbox.base import SYSTEM_FOLDERS, SandboxLimits

CONFIG = "task.toml"
OWN_FOLDERS = ("logs", "solution", "tests")
"""Folders below `/` that Harbor makes in every environment."""
_DEFAULT_WORKDIR = "/app"
_MAX_FILE_BYTES = SandboxLimits().file_bytes
_OTHER_WORLDS = ("docker-compose.yaml", "docker-compose.yml", "singularity-compose.yaml")
_CANARY = re.compile(r"\A(?:\s*(?:<!--.*canary.*-->|#.*canary.*)[ \t]*(?:\n|\Z))+\s*", re.IGNORECASE)
_FETCHES = ("apt", "apt-get", "conda", "curl", "npm", "pip", "pip3", "uv", "uvx", "wget")
_MISSING = ("pytest",)
_PROGRAM = re.compile(
    r"(?:^|[;&|(]|\b(?:if|then|else|do|sudo|exec|python3? -m)\b)\s*(?:\w+=\S*\s+)*"
    rf"({'|'.join((*_FETCHES, *_MISSING))}|git clone)(?=\s|$)",
    re.MULTILINE,
)


class _Table(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Phase(_Table):
    """`[agent]`, `[verifier]` or `[solution]`."""

    timeout_sec: float | None = Field(default=None, gt=0)
    env: dict[str, str] = Field(default_factory=dict)
    user: str | int | None = None
    network_mode: str | None = None
    environment: dict[str, Any] | None = None
    environment_mode: str | None = None
    collect: list[Any] = Field(default_factory=list)


class _Environment(_Table):
    docker_image: str | None = None
    os: str = "linux"
    gpus: int | None = None
    tpu: dict[str, Any] | None = None
    mcp_servers: list[Any] = Field(default_factory=list)
    skills_dir: str | None = None
    healthcheck: dict[str, Any] | None = None
    workdir: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    network_mode: str | None = None
    allow_internet: bool | None = None


class _TaskFile(_Table):
    """The parts of task.toml that decide whether and how a task is played here."""

    schema_version: str = "1.4"
    version: str | None = None
    verifier: _Phase = Field(default_factory=_Phase)
    agent: _Phase = Field(default_factory=_Phase)
    solution: _Phase = Field(default_factory=_Phase)
    environment: _Environment = Field(default_factory=_Environment)
    steps: list[Any] | None = None


@dataclass(frozen=True)
class HarborTask:
    """A task that can be played here.

    Attributes:
        name: the folder's name.
        instruction: what the agent reads.
        world: what the episode begins with.
        tests, solution: relative path -> file; the agent sees neither.
        verifier_env, solution_env: variables of these scripts, in addition to the world's.
        verifier_s: seconds that tests/test.sh may take.
        digest: a hash of all files of the folder that count.
    """

    name: str
    instruction: str
    world: World
    tests: Mapping[str, FileContent]
    solution: Mapping[str, FileContent]
    verifier_env: Mapping[str, str]
    solution_env: Mapping[str, str]
    verifier_s: float
    digest: str

    @property
    def roots(self) -> set[str]:
        """The folders below `/` that its absolute paths begin with."""
        paths = (self.world.workdir, *self.world.folders, *self.world.files)
        return {path.split("/")[1] for path in paths} | set(OWN_FOLDERS)


def read_task(folder: Path) -> HarborTask:
    """Read a task folder.

    Raises: TaskRefused that says what of it cannot be played in our sandbox, or is missing.
    """
    try:
        return _read_task(folder)
    except (OSError, UnicodeError) as error:
        raise TaskRefused(f"it cannot be read: {error}") from error


def _read_task(folder: Path) -> HarborTask:
    file = _read_config(folder / CONFIG)
    for why in _refusals(file, folder):
        raise TaskRefused(why)
    given = file.environment
    if (folder / "environment" / "Dockerfile").exists():
        world = world_of(folder / "environment")
    else:
        world = World(_DEFAULT_WORKDIR, folders=(_DEFAULT_WORKDIR,))
    workdir = world.place(given.workdir or ".")
    world = replace(world, workdir=workdir, folders=(*world.folders, workdir), env={**world.env, **given.env})
    tests, solution = read_tree(folder / "tests"), read_tree(folder / "solution")
    text = _CANARY.sub("", (folder / "instruction.md").read_text(encoding="utf-8"))
    task = HarborTask(
        folder.name,
        text,
        world,
        tests,
        solution,
        file.verifier.env,
        file.solution.env,
        file.verifier.timeout_sec or 600.0,
        _digest(text, world, tests, solution),
    )
    _check_files(task)
    return task


def find_tasks(folder: Path) -> tuple[dict[str, HarborTask], dict[str, str]]:
    """The tasks of a folder: itself if it holds a task.toml, else its subfolders that do.

    Returns: name -> task, and name -> why it is refused.
    """
    folders = [folder] if (folder / CONFIG).exists() else sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    tasks, refused = {}, {}
    for place in folders:
        try:
            tasks[place.name] = read_task(place)
        except TaskRefused as error:
            refused[place.name] = str(error)
    return tasks, refused


def _read_config(path: Path) -> _TaskFile:
    try:
        return _TaskFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise TaskRefused(f"{CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise TaskRefused(f"{CONFIG} cannot be read: {error}") from error


def _refusals(file: _TaskFile, folder: Path) -> Iterator[str]:
    """Why a task cannot be played here, the first reason first."""
    version = file.version or file.schema_version
    if version.split(".")[0] != "1":
        yield f"its schema_version is {version!r}, and only 1 is known"
    for name in ("instruction.md", "tests/test.sh"):
        if not (folder / name).is_file():
            yield f"there is no {name}" + (": it has several steps" if file.steps else "")
    if file.steps:
        yield "it has several steps"
    yield from _worlds_refused(file.environment, folder)
    yield from _phases_refused(file)
    for name in ("trajectory.json", "tests/.harborignore", "solution/.harborignore"):
        if (folder / name).exists():
            yield f"{name} is not supported"
    for name in ("tests/test.sh", "solution/solve.sh"):
        yield from _script_refused(folder, name)


def _worlds_refused(given: _Environment, folder: Path) -> Iterator[str]:
    if given.docker_image:
        yield f"it needs the image {given.docker_image}"
    if given.os.lower() != "linux":
        yield f"it needs {given.os}"
    for name in ("gpus", "tpu", "mcp_servers", "skills_dir", "healthcheck"):
        if getattr(given, name):
            yield f"[environment] asks for {name}"
    if given.network_mode not in (None, "no-network") or given.allow_internet:
        yield "[environment] asks for a network"
    for name in _OTHER_WORLDS:
        if (folder / "environment" / name).exists():
            yield f"it needs the images of environment/{name}"


def _phases_refused(file: _TaskFile) -> Iterator[str]:
    if file.verifier.environment or file.verifier.environment_mode == "separate":
        yield "its verifier needs an image of its own"
    if file.verifier.collect:
        yield "[[verifier.collect]] is not supported"
    if file.agent.user not in (None, "root", 0) or file.verifier.user not in (None, "root", 0):
        yield "agent or verifier needs a user of its own"
    for name, phase in (("agent", file.agent), ("verifier", file.verifier)):
        if phase.network_mode not in (None, "no-network"):
            yield f"[{name}] asks for a network"
    for part in (file.environment, file.verifier, file.solution):
        for name, value in part.env.items():
            if "${" in value:
                yield f"the variable {name} comes from the host: {value}"


def _script_refused(folder: Path, name: str) -> Iterator[str]:
    """A script that fetches programs would fail in the sandbox, and its failure would read as a reward of 0."""
    path = folder / name
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found = _PROGRAM.search(text)
    if found is not None:
        why = "is not in the sandbox" if found[1] in _MISSING else "needs a network"
        yield f"{name} runs {found[1]}, which {why}"


def _check_files(task: HarborTask) -> None:
    for files in (task.world.files, task.tests):
        for path, file in files.items():
            if len(file.content) > _MAX_FILE_BYTES:
                raise TaskRefused(f"{path} has {len(file.content)} bytes, and the sandbox takes {_MAX_FILE_BYTES}")
    for path in (task.world.workdir, *task.world.folders, *task.world.files):
        root = path.split("/")[1]
        if not root or root in SYSTEM_FOLDERS or root in OWN_FOLDERS:
            raise TaskRefused(f"its environment has {path}, a place that the sandbox does not give")


def _digest(text: str, world: World, *trees: Mapping[str, FileContent]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (text, world.workdir, repr(sorted(world.env.items())), repr(world.folders)):
        digest.update(f"{len(part)}:{part}".encode())
    for tree in (world.files, *trees):
        for path, file in sorted(tree.items()):
            digest.update(f"{path}\0{file.executable}\0{len(file.content)}\0".encode() + file.content)
    return digest.hexdigest()
