"""What a run reports to a progress display."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where the run is, and the newest metrics.

    Attributes:
        stage: name of the stage, or of what the run does inside it (`demonstrations`, `eval`).
        step, total: number of the newest step, and how many there are.
        metrics: numbers by `area/name`; empty where only the number changed.
    """

    stage: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
