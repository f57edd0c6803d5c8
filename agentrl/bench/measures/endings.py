"""Measures of how episodes end: cut off by a limit, or discarded after a fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentrl.bench.estimates import Estimate, ValuesByTask, clustered_proportion
from agentrl.bench.measures.base import SHARE, Measure, PerEpisode, by_task
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Truncated(PerEpisode):
    """The share of scored episodes that one limit cut off, such as `max_turns`; any limit if none is named."""

    limit: str = ""
    unit = SHARE

    @property
    def name(self) -> str:
        return f"truncated:{self.limit}" if self.limit else "truncated"

    def of(self, episode: Trajectory) -> float:
        return float(episode.ending.kind == "limit" and self.limit in ("", episode.ending.detail))

    def estimate(self, values_by_task: ValuesByTask) -> Estimate:
        return clustered_proportion(values_by_task)


@dataclass(frozen=True)
class Faults(Measure):
    """The share of all episodes that ended in a fault and are discarded."""

    name = "faults"
    unit = SHARE

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        return clustered_proportion(list(by_task(episodes, lambda episode: episode.status == "fault").values()))


def truncations(episodes: Iterable[Trajectory]) -> dict[str, int]:
    """Limit -> how many episodes it cut off, most first."""
    return dict(Counter(e.ending.detail for e in episodes if e.ending.kind == "limit").most_common())


def fault_causes(episodes: Iterable[Trajectory]) -> dict[str, int]:
    """Cause -> how many episodes it discarded, most first."""
    return dict(Counter(e.error or "unknown" for e in episodes if e.status == "fault").most_common())
