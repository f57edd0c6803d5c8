"""When a run in which almost nothing works ends, and what it says then."""

from __future__ import annotations

from collections import Counter

from agentrl.errors import RolloutError
from agentrl.trajectory import Trajectory


class FaultTally:
    """Counts faults, and ends a run in which too many episodes are faults."""

    def __init__(self, max_fraction: float, patience: int) -> None:
        self.max_fraction, self.patience = max_fraction, patience
        self.episodes, self.in_a_row = 0, 0
        self.causes: Counter[str] = Counter()

    def add(self, trajectory: Trajectory) -> None:
        self.episodes += 1
        if trajectory.status != "fault":
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.causes[trajectory.error or "unknown"] += 1
        if self.in_a_row >= self.patience and self.max_fraction < 1:
            raise self._error(f"{self.in_a_row} episodes in a row")

    def finish(self) -> None:
        """Raises: RolloutError if more than the accepted fraction of all episodes are discarded."""
        faults = self.causes.total()
        if faults > self.max_fraction * self.episodes:
            raise self._error(f"{faults} of {self.episodes} episodes")

    def _error(self, what: str) -> RolloutError:
        cause, times = self.causes.most_common(1)[0]
        return RolloutError(
            f"{what} failed for reasons that are not the model's, after every retry; most often ({times}x): {cause}. "
            "Fix the cause, or raise max_fault_fraction (1 accepts everything)"
        )
