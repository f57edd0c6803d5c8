"""An environment that ends or stops its sampling process once, in the middle of a group."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from agentrl.trajectory import Task
from tests.training.stages.conftest import Agree


class Fatal(Agree):
    """Say yes.

    Args:
        mark: a file that is made when the process gets the signal; an empty name signals none.
        spare: the process that gets none.
        number: of the signal.
        above: who gets it: this process (0), its parent (1), or the parent of that (2).
    """

    def __init__(self, mark: str = "", spare: int = 0, number: int = signal.SIGKILL, above: int = 0) -> None:
        super().__init__()
        self._mark, self._spare, self._number, self._above = mark, spare, number, above

    def score(self, answer: str | None) -> float:
        if self._mark and os.getpid() != self._spare and not Path(self._mark).exists():
            Path(self._mark).touch()
            os.kill(_process(self._above), self._number)
        return super().score(answer)

    def start(self, task: Task) -> str:
        sys.stdout.write("what an author prints\n")
        return super().start(task)


def _process(above: int) -> int:
    """The number of this process (0), its parent (1), or the parent of that (2)."""
    pid = os.getpid()
    for _ in range(above):
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid
