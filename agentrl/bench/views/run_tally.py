"""What the report of a training run needs of its episodes, gathered in one pass over the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrl.bench.estimates import Estimate, clustered_proportion
from agentrl.bench.measures.endings import Counting, Counts, by_cause
from agentrl.bench.views.table import percent
from agentrl.bench.views.transcripts import shown_message
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory

_MAX_TRANSCRIPTS = 6
EVALUATION = "eval"
"""The name under which a run records its evaluations between two steps."""


class Played:
    """The final episodes of one stage and mode: their counts, and success by task."""

    def __init__(self, stage: str, mode: str) -> None:
        self.name = f"{stage.replace('_', ' ')}, {mode}" if stage else mode
        self._counting = Counting()
        self._scored: dict[str, list[float]] = {}
        self._attempted: dict[str, list[float]] = {}
        self._cut_off = 0

    def add(self, episode: Trajectory) -> None:
        self._counting.add(episode)
        self._attempted.setdefault(episode.task.id, []).append(float(episode.success))
        if episode.ending.kind != "fault":
            self._scored.setdefault(episode.task.id, []).append(float(episode.success))
        self._cut_off += episode.ending.kind == "limit"

    @property
    def counts(self) -> Counts:
        return self._counting.counts

    @property
    def of_attempted(self) -> Estimate:
        """The success rate, with discarded episodes as failures."""
        return clustered_proportion(list(self._attempted.values()))

    def row(self) -> dict[str, Any]:
        """The cells of the table of episodes."""
        counts = self.counts
        return {
            "name": self.name,
            "attempted": counts.attempted,
            "scored": counts.scored,
            "cut_off": self._cut_off,
            "errors": counts.errors_shown,
            "discarded": by_cause(counts.discarded),
            "success": percent(clustered_proportion(list(self._scored.values()))),
            "of_attempted": percent(self.of_attempted),
        }


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """An episode of an evaluation: its line in the store, and whether it succeeded."""

    line: int
    success: bool


@dataclass
class Tally:
    """What the report needs of the trajectories, gathered in one pass."""

    tools: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    played: dict[tuple[str, str], Played] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    evaluations: dict[tuple[str, str], dict[str, _Evaluated]] = field(default_factory=dict)
    tables: dict[str, None] = field(default_factory=dict)
    store: TrajectoryStore | None = None

    @classmethod
    def of(cls, path: Path) -> Tally:
        tally = cls()
        if path.exists():
            tally.store = TrajectoryStore(path)
            for line, trajectory in tally.store.numbered():
                if not trajectory.labels.superseded:
                    tally.add(trajectory, line)
        return tally

    def add(self, trajectory: Trajectory, line: int) -> None:
        """Count one final episode. Args: line: its number in the store."""
        stage, mode = trajectory.labels.stage, trajectory.labels.mode
        # An evaluation begins greedily; a greedy episode later in a stage is a baseline of training.
        if mode == "greedy" and stage not in {of for of, _ in self.played}:
            self.tables.setdefault(stage)
        if (stage, mode) not in self.played:
            self.played[stage, mode] = Played(stage, mode)
        if trajectory.fork is None:
            self.played[stage, mode].add(trajectory)
        if trajectory.error is not None:
            cause = (trajectory.error or "unknown").splitlines()[0]
            self.causes[cause] = self.causes.get(cause, 0) + 1
            return
        if trajectory.fork is not None:  # its beginning is another episode's, and it counts in no measure
            return
        for name, stats in (trajectory.info.get("tool_stats") or {}).items():
            total = self.tools.setdefault(name, {}).setdefault(stage, [0, 0])
            total[0] += stats.get("calls", 0)
            total[1] += stats.get("errors", 0)
        if stage in self.tables:
            key = (mode, trajectory.task.id)
            self.evaluations.setdefault(key, {}).setdefault(stage, _Evaluated(line, trajectory.success))

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last stage that evaluated; empty where there is none."""
        names = list(self.tables)
        return (names[0] if len(names) > 1 else "", names[-1] if names else "")

    def transcripts(self) -> list[dict[str, Any]]:
        """Before and after on the same held-out tasks: first those that were learnt, then the others."""
        first, last = self.ends
        pairs = [
            (mode, task, played[first], played[last])
            for (mode, task), played in self.evaluations.items()
            if first in played and last in played
        ]
        modes = {pair[0] for pair in pairs}
        mode = "greedy" if "greedy" in modes else next(iter(sorted(modes)), "")
        chosen = _varied([pair for pair in pairs if pair[0] == mode])
        if self.store is None or not chosen:
            return []
        lines = {side.line for *_, before, after in chosen for side in (before, after)}
        episodes = dict(self.store.numbered(lines=lines))
        return [
            {
                "task": task,
                "mode": mode,
                "sides": [_side("before", episodes[before.line]), _side("after", episodes[after.line])],
            }
            for mode, task, before, after in chosen
        ]

    def tool_rows(self) -> list[dict[str, Any]]:
        """One row per tool: calls and errors before, in training, and after."""
        first, last = self.ends
        return [
            {"name": name, "cells": [by_stage.get(first), self._in_training(by_stage), by_stage.get(last)]}
            for name, by_stage in sorted(self.tools.items())
        ]

    def _in_training(self, by_stage: Mapping[str, list[int]]) -> list[int] | None:
        """Calls and errors in all stages that are no evaluation."""
        numbers = [counts for stage, counts in by_stage.items() if stage not in self.tables and stage != EVALUATION]
        return [sum(column) for column in zip(*numbers, strict=True)] if numbers else None


_Pair = tuple[str, str, _Evaluated, _Evaluated]


def _varied(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Mostly tasks that were learnt, but a failure that stayed and a success that was there too."""
    kinds: dict[tuple[bool, bool], list[_Pair]] = {}
    for pair in pairs:
        kinds.setdefault((pair[2].success, pair[3].success), []).append(pair)
    learnt, stayed, had, lost = (kinds.get(k, []) for k in ((False, True), (False, False), (True, True), (True, False)))
    return [*learnt[:3], *stayed[:1], *lost[:1], *had[:1], *learnt[3:]][:_MAX_TRANSCRIPTS]


def _side(label: str, trajectory: Trajectory) -> dict[str, Any]:
    return {
        "label": label,
        "success": trajectory.success,
        "reward": trajectory.reward,
        "status": trajectory.status,
        "error": trajectory.ending.detail if trajectory.ending.kind == "error" else "",
        "messages": [shown_message(message) for message in trajectory.messages()],
    }
