"""The curves of a training run while it runs: metrics.jsonl, read as it grows. `agentrl.bench.views` draws them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrl.bench.views.run_report import main_charts, small_charts
from agentrl.viewer.sources import Source

_MOST_POINTS = 400
_MOST_BYTES = 256 << 20


@dataclass
class _Log:
    """The lines of one file that were read."""

    position: int = 0
    rows: list[Mapping[str, Any]] = field(default_factory=list)


class Curves:
    """The metrics of runs; not for several threads at once."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}

    def of(self, source: Source) -> dict[str, Any]:
        """The charts of a run as the report draws them: SVG texts, with their titles.

        A stage of very many steps is thinned out; `every` says to one step of how many, at most.
        """
        rows = self._rows(source)
        every = {stage: -(-count // _MOST_POINTS) for stage, count in Counter(map(_stage, rows)).items()}
        numbers: Counter[str] = Counter()
        shown = []
        for row in rows:
            stage = _stage(row)
            numbers[stage] += 1
            # Evaluations are few: all of them stay.
            if "eval/success" in row or numbers[stage] % every[stage] == 0 or row is rows[-1]:
                shown.append(row)
        most = max(every.values(), default=1)
        return {"rows": len(rows), "every": most, "main": main_charts(shown), "small": small_charts(shown)}

    def _rows(self, source: Source) -> list[Mapping[str, Any]]:
        if source.metrics is None:
            return []
        log = self._logs.setdefault(source.id, _Log())
        _read_on(source.metrics, log)
        return log.rows


def _stage(row: Mapping[str, Any]) -> str:
    return str(row["stage"])


def _read_on(path: Path, log: _Log) -> None:
    """Read whole lines that were added; a file that became shorter is read again."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < log.position or not _ends_line(file, log.position):
                log.position, log.rows = 0, []
            file.seek(log.position)
            text = file.read(min(size - log.position, _MOST_BYTES))
    except OSError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    log.position += len(whole)
    for line in whole.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"stage", "step", "version"} <= row.keys():
            log.rows.append(row)


def _ends_line(file: Any, position: int) -> bool:
    """Whether a line ends at the position where reading stopped."""
    if position == 0:
        return True
    file.seek(position - 1)
    return bool(file.read(1) == b"\n")
