"""The index: where each episode's line stands in its store, and what tables show of it. SQLite, in a temporary place.

Nothing is written into a run folder, and no store is locked. One thread writes; any number may read at the same time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.viewer.skim import Row

COLUMNS = ("source", "line", "offset", "size", *Row._fields)
FACETS = ("env", "stage", "mode", "status", "ending", "split")
"""Columns whose values are counted, for the lists of filters."""
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE episodes ({", ".join(COLUMNS)}, PRIMARY KEY (source, line)) WITHOUT ROWID;
CREATE INDEX by_task ON episodes (task, source, line);
CREATE TABLE facets (source, name, value, n, PRIMARY KEY (source, name, value)) WITHOUT ROWID;
CREATE TABLE totals (source, stage, mode, first, attempted, scored, solved, reward,
  PRIMARY KEY (source, stage, mode)) WITHOUT ROWID;
"""
_INSERT = f"INSERT OR REPLACE INTO episodes VALUES ({', '.join('?' * len(COLUMNS))})"
_COUNT = "INSERT INTO facets VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_ADD = """INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET attempted = attempted +
  excluded.attempted, scored = scored + excluded.scored, solved = solved + excluded.solved,
  reward = reward + excluded.reward"""


class Index:
    """The tables. `add` and `forget` belong to one thread; `rows` may be called from any.

    Args: path: of the SQLite file, which is made here.
    """

    def __init__(self, path: Path) -> None:
        self._writer = sqlite3.connect(path, check_same_thread=False)
        self._writer.executescript(_SCHEMA)
        self._reader = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self._reader.row_factory = sqlite3.Row
        self._reading = threading.Lock()

    def add(self, source: str, entries: Sequence[tuple[int, int, int, Row]]) -> None:
        """Add episodes in one transaction.

        Args: entries: line number, offset, size in bytes, and row of each.
        """
        counts: Counter[tuple[str, str]] = Counter()
        totals: dict[tuple[str, str], list[float]] = {}
        for line, _, _, row in entries:
            if row.problem:
                counts["problem", "lines"] += 1
                continue
            counts.update((name, str(getattr(row, name))) for name in FACETS)
            if not row.superseded and not row.forked:
                _count(totals.setdefault((row.stage, row.mode), [line, 0, 0, 0, 0.0]), row)
        with self._writer:
            self._writer.executemany(_INSERT, ((source, line, at, size, *row) for line, at, size, row in entries))
            self._writer.executemany(_COUNT, ((source, *key, n) for key, n in counts.items()))
            self._writer.executemany(_ADD, ((source, *key, *sums) for key, sums in totals.items()))

    def forget(self, source: str) -> None:
        """Remove the episodes of a store that is read anew."""
        with self._writer:
            for table in ("episodes", "facets", "totals"):
                self._writer.execute(f"DELETE FROM {table} WHERE source = ?", (source,))

    def rows(self, query: str, values: Iterable[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """The answer to a query of ours; values from outside stand in `values` alone."""
        given = values if isinstance(values, Mapping) else tuple(values)
        with self._reading:
            return [dict(row) for row in self._reader.execute(query, given)]

    def close(self) -> None:
        """Close the file."""
        with self._reading:
            self._reader.close()
        self._writer.close()


def _count(sums: list[float], row: Row) -> None:
    scored = row.status != "fault"
    sums[1] += 1
    sums[2] += scored
    sums[3] += scored and row.success
    sums[4] += (row.reward or 0.0) if scored else 0.0
