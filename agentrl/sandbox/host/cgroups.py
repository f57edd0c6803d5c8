"""Control groups for sandboxes, where the host lets us make them. Owns finding, filling and removing them.

Without one, memory and processes are held by limits per process and by the worker's look at all of them together.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "agentrl-sandbox"
_WORKER_BYTES = 64 << 20
"""What the worker itself and its forks may take beside the request's memory and the work folder."""
_SPARE_TASKS = 32
"""Beside twice what a request may have: the kernel counts a request's processes by their user, this only bounds all."""
_EVENTS_BYTES = 4096


@dataclass(frozen=True)
class Place:
    """Where groups can be made: a folder per controller, which is one and the same folder in version 2."""

    memory: Path
    pids: Path

    @property
    def unified(self) -> bool:
        return self.memory == self.pids

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.memory,) if self.unified else (self.memory, self.pids)


@cache
def place() -> Place | None:
    """The folders that groups can be made in, found by making one; None where that is not allowed."""
    for candidate in _candidates():
        try:
            group = Group.make(candidate, f"probe-{os.getpid()}", 1 << 30, 64)
        except OSError:
            continue
        group.remove()
        return candidate
    return None


def _candidates() -> Iterator[Place]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    if "memory" in paths and "pids" in paths:
        for memory, pids in ((paths["memory"], paths["pids"]), ("", "")):
            yield Place(_ROOT / "memory" / memory, _ROOT / "pids" / pids)
    if "" in paths:
        own = _ROOT / paths[""]
        # A group with processes may hold no controlled group: ours stand beside this process, not below it.
        for folder in (own.parent, own):
            if folder.is_relative_to(_ROOT):
                yield Place(folder, folder)


@dataclass(frozen=True)
class Group:
    """One sandbox's group."""

    place: Place
    name: str

    @classmethod
    def make(cls, place: Place, name: str, memory_bytes: int, pids: int) -> Group:
        """A new group with its limits.

        Raises: OSError where the host does not allow it.
        """
        group = cls(place, f"{_PREFIX}-{name}")
        try:
            for folder in group.folders:
                folder.mkdir()
            unified = place.unified
            _write(group._memory / ("memory.max" if unified else "memory.limit_in_bytes"), memory_bytes)
            _write(group._pids / "pids.max", pids)
            if unified:
                with contextlib.suppress(OSError):  # there is none without swap accounting
                    _write(group._memory / "memory.swap.max", 0)
        except OSError:
            group.remove()
            raise
        return group

    @classmethod
    def for_sandbox(cls, name: str, memory_bytes: int, disk_bytes: int, pids: int) -> Group | None:
        """A group that leaves room for the worker; None where the host allows none."""
        where = place()
        if where is None:
            return None
        try:
            return cls.make(where, name, memory_bytes + disk_bytes + _WORKER_BYTES, 2 * pids + _SPARE_TASKS)
        except OSError:
            return None

    @property
    def folders(self) -> list[Path]:
        return [folder / self.name for folder in self.place.folders]

    @property
    def _memory(self) -> Path:
        return self.place.memory / self.name

    @property
    def _pids(self) -> Path:
        return self.place.pids / self.name

    def add(self, pid: int) -> None:
        """Move a process in; what it forks from now on is born in it."""
        for folder in self.folders:
            _write(folder / "cgroup.procs", pid)

    def memory_kills(self) -> MemoryKills:
        """Count what the kernel ends in it for memory, from now on; to be closed."""
        return MemoryKills(self._memory / ("memory.events" if self.place.unified else "memory.oom_control"))

    def remove(self) -> None:
        """Take it away; one that still holds a process stays, for the next reaping."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


class MemoryKills:
    """Counts what the kernel ends in a group for memory; asked after every request, so its file stays open.

    Args:
        events: the kernel's file of them; where it cannot be opened, none are counted.
    """

    def __init__(self, events: Path) -> None:
        self._fd, self._seen = -1, 0
        with contextlib.suppress(OSError):
            self._fd = os.open(events, os.O_RDONLY | os.O_CLOEXEC)
        self._seen = self._count()

    def any_more(self) -> bool:
        """Whether there were any since this was last asked."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        if self._fd >= 0:
            with contextlib.suppress(OSError, ValueError):
                _, found, rest = os.pread(self._fd, _EVENTS_BYTES, 0).partition(b"oom_kill ")
                return int(rest.split(None, 1)[0]) if found else 0
        return self._seen

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def left_behind(names: str) -> list[Group]:
    """Groups here whose name, without the prefix, begins so."""
    where = place()
    if where is None:
        return []
    found = where.memory.glob(f"{_PREFIX}-{names}*")
    return [Group(where, path.name) for path in found]


def _write(path: Path, value: int) -> None:
    path.write_text(f"{value}\n")
