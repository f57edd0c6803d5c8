"""What a Dockerfile asks for, where our sandbox can give it without an image. Owns what is accepted; builds nothing.

The sandbox gives the host's programs in place of those of a plain Debian, Ubuntu or Python image. So a Dockerfile may
set a working folder and variables, copy files and make folders. Everything else is refused.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentrl.errors import AgentRLError

BASES = ("debian", "python", "ubuntu")
_WITHOUT_EFFECT = ("CMD", "EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL")
_SHOWN = 70
_ROOT = ("root", "0", "root:root", "0:0")


class TaskRefused(AgentRLError, ValueError):
    """A task folder cannot be played here; the text says why."""


@dataclass(frozen=True)
class FileContent:
    """A file of a task folder: its bytes, and whether it may be executed."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class World:
    """What an episode begins with.

    Attributes:
        workdir: the folder in which commands start, an absolute path.
        files: absolute path -> file.
        folders: absolute paths of folders that exist, in addition to those of files.
        env: variables of every program.
    """

    workdir: str = "/"
    files: Mapping[str, FileContent] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """An absolute path for one that may be relative to the working folder."""
        return posixpath.normpath(posixpath.join(self.workdir, path))


def world_of(folder: Path) -> World:
    """The world that `folder/Dockerfile` describes.

    Args: folder: the build context, `environment/` of a task.
    Raises: TaskRefused that quotes the first line that needs an image.
    """
    if (folder / ".dockerignore").exists():
        raise TaskRefused("environment/.dockerignore is not supported")
    world, based = World(), False
    for word, rest in _instructions((folder / "Dockerfile").read_text(encoding="utf-8")):
        if word == "FROM":
            if based:
                raise TaskRefused("its Dockerfile has several stages")
            _check_base(rest)
            based = True
        elif word in _STEPS:
            if "$" in rest or "<<" in rest:
                raise _needs_image(word, rest)
            world = _STEPS[word](world, rest, folder)
        elif word not in _WITHOUT_EFFECT:
            raise _needs_image(word, rest)
    if not based:
        raise TaskRefused("its Dockerfile has no FROM")
    return world


def read_tree(folder: Path) -> dict[str, FileContent]:
    """Relative path -> file, for all files below a folder. Raises: TaskRefused for a link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise TaskRefused(f"{path.relative_to(folder.parent)} is a link")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = _content(path)
    return found


def _content(path: Path) -> FileContent:
    return FileContent(path.read_bytes(), bool(path.stat().st_mode & 0o100))


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, each as its first word and the rest, with continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        yield word.upper(), rest.strip()


def _needs_image(word: str, rest: str) -> TaskRefused:
    line = " ".join(f"{word} {rest}".split())
    return TaskRefused(f"its Dockerfile needs an image: {line[:_SHOWN]}{'...' if len(line) > _SHOWN else ''}")


def _check_base(rest: str) -> None:
    name = rest.split("@")[0].split(":")[0].removeprefix("docker.io/").removeprefix("library/")
    if name not in BASES:
        raise TaskRefused(f"its Dockerfile needs an image: FROM {rest[:_SHOWN]} (plain {', '.join(BASES)} are known)")


def _words(word: str, rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise _needs_image(word, rest) from error


def _workdir(world: World, rest: str, _: Path) -> World:
    path = world.place(rest.strip("\"'"))
    return replace(world, workdir=path, folders=(*world.folders, path))


def _env(world: World, rest: str, _: Path) -> World:
    words = _words("ENV", rest)
    pairs = dict(word.partition("=")[::2] for word in words if "=" in word)
    if len(pairs) != len(words):
        if len(words) < 2 or "=" in words[0]:
            raise _needs_image("ENV", rest)
        pairs = {words[0]: " ".join(words[1:])}  # the older form: ENV NAME some words
    return replace(world, env={**world.env, **pairs})


def _user(world: World, rest: str, _: Path) -> World:
    if rest not in _ROOT:
        raise _needs_image("USER", rest)
    return world


def _run(world: World, rest: str, _: Path) -> World:
    """Only `mkdir` can be done without an image."""
    folders: list[str] = []
    for command in rest.split("&&"):
        words = _words("RUN", command)
        names = [word for word in words[1:] if word != "-p"]
        if not words or words[0] != "mkdir" or any(set(name) & set("-*?;|<>&{}()`") for name in names):
            raise _needs_image("RUN", rest)
        folders += [world.place(name) for name in names]
    return replace(world, folders=(*world.folders, *folders))


def _copy(world: World, rest: str, folder: Path) -> World:
    words = _words("COPY", rest)
    if len(words) < 2 or any(word.startswith(("-", "[")) or set(word) & set("*?[") for word in words):
        raise _needs_image("COPY", rest)
    *sources, target = words
    files = dict(world.files)
    for source in sources:
        files |= _copied(world, folder, source, target, several=len(sources) > 1)
    return replace(world, files=files)


def _copied(world: World, folder: Path, source: str, target: str, *, several: bool) -> dict[str, FileContent]:
    """Absolute path -> file, of one source of a COPY."""
    path = (folder / source.lstrip("/")).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.exists():
        raise TaskRefused(f"its Dockerfile copies {source!r}, which is not in environment/")
    place = world.place(target)
    if path.is_dir():
        return {f"{place}/{name}": file for name, file in read_tree(path).items()}
    if several or target.endswith("/") or place in world.folders:
        place = f"{place}/{path.name}"
    return {place: _content(path)}


_STEPS: Mapping[str, Callable[[World, str, Path], World]] = {
    "WORKDIR": _workdir,
    "ENV": _env,
    "USER": _user,
    "RUN": _run,
    "COPY": _copy,
    "ADD": _copy,
}
