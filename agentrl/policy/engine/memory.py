"""How much memory a process may still take. Owns the reading of it, no decision."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that this host and the limit of its container still allow; None where the system does not say."""
    known = [free for free in (_host_free(), _container_free()) if free is not None]
    return min(known, default=None)


def _host_free() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_free() -> int | None:
    """What the container's limit leaves; pages of files do not count, because the kernel frees them."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = (_CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no container, or no limit ("max")
        return None
    cached = sum(int(line.split()[1]) for line in stat if line.startswith(("inactive_file ", "active_file ")))
    return limit - used + cached
