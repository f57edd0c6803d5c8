"""What this process holds open, for tests that nothing is left behind."""

from __future__ import annotations

import contextlib
import os


def open_descriptors() -> set[tuple[int, str]]:
    """Number and target of every open descriptor, such as (7, "socket:[123]"); compare two such sets for leaks."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found


def open_sockets() -> set[str]:
    """Open sockets by the kernel's own numbers, which no later file gets."""
    return {target for _, target in open_descriptors() if target.startswith("socket:")}
