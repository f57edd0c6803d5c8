"""Requests as a worker reads them: headers of programs, and checks of what a caller names. Owns no connection."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeAlias

from agentrl.sandbox.base import SandboxError, SandboxLimits
from agentrl.sandbox.worker.archive import MAX_PATH_BYTES

Job: TypeAlias = tuple[str] | tuple[str, str | None] | tuple[str, None, str]
"""What is to be run: its kind, then its session and its current folder, if it has them."""
_MAX_NAME, _SHOWN = 255, 80


@functools.lru_cache(maxsize=256)
def run_header(
    asked: SandboxLimits, ceiling: SandboxLimits, kind: str, session: str | None = None, cwd: str = "."
) -> tuple[SandboxLimits, bytes]:
    """What a request may use, and its packed header. It is cached: an environment uses few different limits."""
    limits = asked.within(ceiling)
    return limits, packed(limits, kind, session, cwd)


def packed(limits: SandboxLimits, kind: str, session: str | None, cwd: str = ".", *, waited_s: float = 0.0) -> bytes:
    """A request's header; `waited_s` is how much of its wall time has passed."""
    header = {"op": "run", "kind": kind, "session": session, "cwd": cwd, "limits": asdict(limits), "waited_s": waited_s}
    return json.dumps(header).encode("ascii")


def check_program(argv: Sequence[str], cwd: str) -> None:
    """Refuse a program that cannot be started. Raises: SandboxError."""
    if not argv or any("\0" in word for word in argv):
        raise SandboxError(f"argv must name a program and hold no NUL, got {list(argv)!r}")
    if cwd.startswith("/") or ".." in cwd.split("/"):
        raise SandboxError(f"cwd must stand inside the work folder, got {cwd!r}")
    check_path(cwd)


def check_session(name: str | None, stdin: bytes) -> None:
    """Refuse a session that cannot be. Raises: SandboxError."""
    if name is not None and stdin:
        raise SandboxError("a session has no stdin; put the text into a file or into the code")
    if name is not None and len(name) > _MAX_NAME:
        raise SandboxError(f"a session's name has at most {_MAX_NAME} characters, got {len(name)}")


def check_path(path: str) -> None:
    """Refuse a path that no file can have. Raises: SandboxError."""
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise SandboxError(f"{path[:_SHOWN]!r} is no path: it holds half of a surrogate pair") from None
    if "\0" in path:
        raise SandboxError(f"{path[:_SHOWN]!r} is no path: it holds NUL")
    if size > MAX_PATH_BYTES:
        raise SandboxError(f"{path[:_SHOWN]!r}... is too long: {size} bytes, a path has at most {MAX_PATH_BYTES}")
