"""The wall and CPU seconds of a run, over interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Counts the seconds of this process, and adds those that earlier processes of the run have spent.

    Attributes: elsewhere: CPU seconds of other processes that work for this one.
    """

    def __init__(self) -> None:
        self.elsewhere: Callable[[], float] = lambda: 0.0
        self._wall_s, self._cpu_s = -time.perf_counter(), -time.process_time()

    def go_on_from(self, wall_s: float, cpu_s: float) -> None:
        """Add the seconds that were spent before this process."""
        self._wall_s += wall_s
        self._cpu_s += cpu_s

    @property
    def wall_s(self) -> float:
        """Wall seconds of the run."""
        return self._wall_s + time.perf_counter()

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the run's processes."""
        return self._cpu_s + time.process_time() + self.elsewhere()
