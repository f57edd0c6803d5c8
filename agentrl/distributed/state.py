"""Who samples, and what is under way there at a moment. Owns how that is described, not who asks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Condition = Literal["starting", "ready", "lost"]


@dataclass(frozen=True)
class WorkerState:
    """A worker or an inference server at a moment.

    Attributes:
        number: from 0.
        place: what it is and where it runs.
        condition: `lost` until another worker takes its place, or a server can be reached again.
        groups: groups that it is playing; 0 for a server, which samples turns.
        episodes: episodes of these groups that have not ended; of a server the turns that it is sampling.
        cpu_s: CPU seconds, as last reported; 0 if unknown.
        memory_bytes: resident memory of its sampling process, as last reported; 0 if unknown.
    """

    number: int
    place: str
    condition: Condition
    groups: int = 0
    episodes: int = 0
    cpu_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class SamplingState:
    """What is under way at a moment.

    Attributes:
        by: who samples: the process that learns, `processes`, `ray` or `servers`.
        episodes: under way.
        groups: groups that workers are playing.
        waiting: groups that wait for a worker.
        restarts: workers that were started in place of lost ones, or losses of servers.
        last_loss: why the last one was lost; empty where none was.
        workers: all of them; none where the process that learns samples.
    """

    by: str
    episodes: int = 0
    groups: int = 0
    waiting: int = 0
    restarts: int = 0
    last_loss: str = ""
    workers: tuple[WorkerState, ...] = ()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process of this machine; 0 where that cannot be read."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
