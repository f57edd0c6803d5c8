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
    """Memory of processes together; shared pages count once. Reading it is slower than reading resident sets."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
        except OSError:  # gone by now
            continue
    return total


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        if pid == root:
            return True
        pid = parents[pid]
    return False
