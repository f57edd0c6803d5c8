"""The wall and CPU seconds of a run, over interruptions."""

from __future__ import annotations

import time


class Clock:
    """Goes on from what earlier processes of the run have spent."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = -time.perf_counter(), -time.process_time()

    def go_on_from(self, wall_s: float, cpu_s: float) -> None:
        """Add what was spent before this process."""
        self._wall_s += wall_s
        self._cpu_s += cpu_s

    @property
    def wall_s(self) -> float:
        return self._wall_s + time.perf_counter()

    @property
    def cpu_s(self) -> float:
        return self._cpu_s + time.process_time()
