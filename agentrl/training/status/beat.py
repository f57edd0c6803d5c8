"""What a run writes to status.json about itself, and the process that wrote it. Imports neither torch nor a stage."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from agentrl.distributed.state import SamplingState

BEAT_S = 2.0
"""Seconds between two writings."""
_START_FIELD = 19
"""Position of a process's start time in /proc/PID/stat, counted after its name."""


@dataclass(frozen=True)
class Now:
    """Where a run is.

    Attributes:
        stage: number of the stage in progress, from 0; the number of stages once all are finished.
        weights: version of the sampler's weights.
        wall_s, cpu_s: seconds that the run has spent, over interruptions; CPU seconds of all its processes.
        sampling: who samples; None before that is known.
    """

    stage: int
    weights: int
    wall_s: float
    cpu_s: float
    sampling: SamplingState | None


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the plan. Attributes: total: its steps; 0 where that is not known before it begins."""

    name: str
    total: int


@dataclass(frozen=True)
class Part:
    """The part of a stage that is in progress: its steps, or an evaluation or demonstrations inside it.

    Attributes:
        name: of the stage or the part.
        number, total: how much is done, and how much there is.
        first: what `number` was at its first report in this process.
        began_s: when that was, seconds since 1970.
    """

    name: str
    number: int
    total: int
    first: int
    began_s: float


@dataclass(frozen=True)
class Process:
    """A process of a machine.

    Attributes:
        pid, host: which one.
        start: when it began, in the kernel's ticks, so that another process of the same number is told apart; 0 where
            the kernel does not say.
    """

    pid: int
    host: str
    start: int = 0

    @classmethod
    def own(cls) -> Process:
        """This process."""
        return cls(os.getpid(), socket.gethostname(), started(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine."""
        return self.host == socket.gethostname()

    @property
    def exists(self) -> bool:
        """Whether it is there; only for one of this machine."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            pass
        now = started(self.pid)
        return not (self.start and now) or now == self.start


@dataclass(frozen=True)
class Beat:
    """The content of status.json.

    Attributes:
        process: that writes it.
        began_s, written_s: when that process began the run or went on with it, and when it wrote this; since 1970.
        beat_s: seconds between two writings.
        stages: the plan, in order.
        now: where the run is.
        part: in progress; None before the first report.
        memory_bytes: resident memory of the process; 0 if unknown.
        ended: the error that ended the process; empty while it is running and after a finished run.
    """

    process: Process
    began_s: float
    written_s: float
    beat_s: float
    stages: tuple[PlannedStage, ...]
    now: Now
    part: Part | None = None
    memory_bytes: int = 0
    ended: str = ""

    @classmethod
    def read(cls, path: Path) -> Beat | None:
        """The content of a file; None if there is none, or it is not a beat of this version."""
        try:
            return _BEAT.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, path: Path) -> None:
        """Replace the file in one step, without waiting for the disk. Raises: OSError."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(_BEAT.dump_json(self, indent=1))
        partial.replace(path)


_BEAT = TypeAdapter(Beat)


def started(pid: int) -> int:
    """When a process of this machine began, in the kernel's ticks; 0 where that cannot be read."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(after_name[_START_FIELD])
    except (OSError, ValueError, IndexError):
        return 0
