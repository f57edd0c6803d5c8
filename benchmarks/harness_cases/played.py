"""What `benchmarks/harness_overhead.py` asks of a case, and what a case reports of the episodes that it played."""

from __future__ import annotations

from dataclasses import dataclass

from overhead_cases.task import Outcome


@dataclass(frozen=True)
class Setting:
    """How episodes are played.

    Attributes:
        recorded: the harness keeps the records that it keeps by default; False switches them off.
        concurrency: episodes alive at the same time.
    """

    recorded: bool
    concurrency: int


@dataclass(frozen=True)
class Played:
    """Episodes that have ended.

    Attributes:
        turns: how many turns the mock model answered.
        score: the mean score of the harness's own report; None where it makes none.
        outcomes: score and tool results of each problem, from what was recorded; None where nothing was.
        record_bytes: size of the records.
    """

    turns: int
    score: float | None
    outcomes: dict[int, Outcome] | None
    record_bytes: int
