"""What processes use, read from /proc. Owns the sums over a process and its descendants."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a process and its descendants use together; shared pages count once per process."""

    tasks: int = 0
    cpu_s: float = 0.0
    rss_bytes: int = 0
    pids: tuple[int, ...] = ()


def usage_of(root: int) -> Usage:
    """Usage of a process and all its descendants. Orphans count: the namespace's first process becomes their parent."""
    parents: dict[int, int] = {}
    rows: dict[int, tuple[int, float, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = _stat(name)
        if fields:
            pid = int(name)
            parents[pid] = int(fields[1])
            cpu_s = sum(map(int, fields[11:15])) / _TICKS
            rows[pid] = (int(fields[17]), cpu_s, int(fields[21]) * _PAGE)
    members = {pid for pid in rows if _descends(pid, root, parents)}
    picked = [rows[pid] for pid in members]
    return Usage(
        sum(row[0] for row in picked), sum(row[1] for row in picked), sum(row[2] for row in picked), tuple(members)
    )


def _stat(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the name, state first; empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []


def proportional_bytes(pids: Iterable[int]) -> int:
    """Memory of processes together; shared pages count once. Reading it is slower than reading resident sets.

    A process that hides its memory from others of its user counts with its whole resident set.
    """
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
        except PermissionError:
            total += _resident_bytes(pid)
        except OSError:  # gone by now
            continue
    return total


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def descriptors_of(pids: Iterable[int], hidden: int) -> list[str]:
    """The names of all open descriptors of processes, as paths in /proc.

    Args:
        hidden: how many descriptors a process counts with that hides them from others of its user.
    """
    found: list[str] = []
    for pid in pids:
        try:
            found += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
        except PermissionError:
            # One that is ending has no memory any more, and belongs to nobody who could look into it.
            found += [""] * (hidden if _resident_bytes(pid) else 0)
        except OSError:  # gone by now
            continue
    return found


def sockets_among(descriptors: Iterable[str]) -> int:
    """How many of the descriptors are sockets; hidden ones count as sockets."""
    count = 0
    for path in descriptors:
        try:
            count += not path or os.readlink(path).startswith("socket:")
        except OSError:  # closed by now
            continue
    return count


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        if pid == root:
            return True
        pid = parents[pid]
    return False
