"""What a result was made with: machine, command line and git revision. Names neither the host nor its user."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.wire.redaction import REDACTED, without_credentials

_GIT_S = 5.0
_SECRET = re.compile(
    r"(?i)(key|token|secret|password|passwd|credential|authorization|header|extra_body)[\w.-]*=.*", re.S
)


@dataclass(frozen=True)
class Provenance:
    """Where and how a result came about.

    Attributes:
        machine: system, architecture, processor, cores and memory.
        command: the command line, without credentials; empty where Python called.
        git: revision of the folder in which the command was given, with `+` where files differed from it; empty outside
            of a repository.
    """

    machine: dict[str, Any]
    command: str
    git: str

    @classmethod
    def here(cls) -> Provenance:
        """That of this process."""
        return cls(machine_facts(), command_line(sys.argv), git_revision(Path.cwd()))


def machine_facts() -> dict[str, Any]:
    """Where this process runs."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
    }


def command_line(arguments: Sequence[str]) -> str:
    """A command line as one text, for a shell. Values of what may hold a secret are left out.

    Args: arguments: with the program first.
    """
    program = Path(arguments[0] if arguments else "")
    if program.name not in ("agentrl", "agentrl.exe") and program.parts[-2:] != ("agentrl", "__main__.py"):
        return ""
    safe = [_SECRET.sub(rf"\1={REDACTED}", without_credentials(argument)) for argument in arguments[1:]]
    return shlex.join(["agentrl", *safe])


def git_revision(folder: Path) -> str:
    """The commit that is checked out, with `+` where tracked files differ from it; empty where there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+' if changed else ''}"


def _git(folder: Path, *arguments: str) -> str:
    # `core.fsmonitor` could name a program to run, and a status could lock the index of somebody's repository.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    with suppress(OSError, ValueError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None
