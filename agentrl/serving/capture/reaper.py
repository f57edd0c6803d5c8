"""Runs one shell command, and ends everything that the command started when it ends. Loads nothing of AgentRL.

    python -I -S reaper.py COMMAND

Its input is a pipe of the process that started it: when that process ends, or closes the pipe, the command ends too. On
Linux a process that leaves the command's session and loses its parent becomes a child of this one, so it is found;
elsewhere only the session ends. What runs as another user cannot be ended.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36
_MOST_S, _PAUSE_S = 4.0, 0.002
_KILLED = 128 + signal.SIGKILL


def run(command: str) -> int:
    """Returns: the command's exit status as a shell gives it, also where it was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    news, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    child = os.posix_spawn(
        "/bin/sh", ["sh", "-c", command], os.environ, file_actions=[no_input], setsid=True, setsigdef=[signal.SIGPIPE]
    )
    status = None
    while status is None:
        ready, _, _ = select.select([0, news], [], [])
        if 0 in ready and not os.read(0, 1):
            break
        if news in ready:
            os.read(news, 4096)
        status = dict(_ended()).get(child)
    _end_all(child)
    return _KILLED if status is None else status


def _ended() -> Iterator[tuple[int, int]]:
    """Children that have ended, those that were adopted included, with their exit status."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(found[1])
            yield found[0], status if status >= 0 else 128 - status


def _end_all(session: int) -> None:
    """End a session, and every child until there is none: the children of one that ends become children of this one."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    until = time.monotonic() + _MOST_S
    while time.monotonic() < until:
        for pid in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for _ in _ended():
            pass
        if not _children():
            return
        time.sleep(_PAUSE_S)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # no /proc
        return []


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
