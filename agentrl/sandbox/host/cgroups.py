"""Control groups for sandboxes, if the host allows them. Owns making, filling and removing them, not the limits.

Without a group, memory and processes are bounded by limits per process, and by the worker, which regularly adds up
what all processes of a request use.
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
"""Memory for the worker itself and its forks, in addition to the request's memory and the work folder."""
_SPARE_TASKS = 32
"""Added to twice the limit of a request: the exact limit is set per user, the group bounds the whole sandbox."""
_EVENTS_BYTES = 4096


@dataclass(frozen=True)
class Place:
    """Where groups can be made: one folder for each controller; in version 2 both are the same folder."""

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
    """The folders that groups can be made in, found by making one; None if that is not allowed."""
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
        # A group with processes may hold no controlled group, so ours are siblings of this process's group if possible.
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

        Raises: OSError if the host does not allow it.
        """
        group = cls(place, f"{_PREFIX}-{name}")
        try:
            for folder in group.folders:
                folder.mkdir()
            unified = place.unified
            _write(group._memory / ("memory.max" if unified else "memory.limit_in_bytes"), memory_bytes)
            _write(group._pids / "pids.max", pids)
            if unified:
                with contextlib.suppress(OSError):  # the file is missing without swap accounting
                    _write(group._memory / "memory.swap.max", 0)
        except OSError:
            group.remove()
            raise
        return group

    @classmethod
    def for_sandbox(cls, name: str, memory_bytes: int, disk_bytes: int, pids: int) -> Group | None:
        """A group with room for the worker too; None if the host allows none."""
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
        """Move a process into the group; what it forks from now on starts in the group."""
        for folder in self.folders:
            _write(folder / "cgroup.procs", pid)

    def memory_kills(self) -> MemoryKills:
        """A counter of what the kernel kills in the group for lack of memory from now on; to be closed."""
        return MemoryKills(self._memory / ("memory.events" if self.place.unified else "memory.oom_control"))

    def remove(self) -> None:
        """Remove the group. If it still holds a process, it stays until the next reaping."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


class MemoryKills:
    """Counts what the kernel kills in a group for lack of memory. Asked after every request, so its file stays open.

    Args:
        events: the kernel's file of such events; if it cannot be opened, nothing is counted.
    """

    def __init__(self, events: Path) -> None:
        self._fd, self._seen = -1, 0
        with contextlib.suppress(OSError):
            self._fd = os.open(events, os.O_RDONLY | os.O_CLOEXEC)
        self._seen = self._count()

    def any_more(self) -> bool:
        """Whether something was killed since this was last asked."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        if self._fd >= 0:
            with contextlib.suppress(OSError, ValueError):
                _, found, rest = os.pread(self._fd, _EVENTS_BYTES, 0).partition(b"oom_kill ")
                return int(rest.split(None, 1)[0]) if found else 0
        return self._seen

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def left_behind(names: str) -> list[Group]:
    """Existing groups of sandboxes whose name, without the prefix, begins with `names`."""
    where = place()
    if where is None:
        return []
    found = where.memory.glob(f"{_PREFIX}-{names}*")
    return [Group(where, path.name) for path in found]


def _write(path: Path, value: int) -> None:
    path.write_text(f"{value}\n")
