"""Verdicts that were given before. Owns the file: bounded, and refused where it is something else."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from agentrl.errors import ConfigError

T = TypeVar("T")
logger = logging.getLogger(__name__)
CACHE_VERSION = 1
"""Number of the table's form; verdicts of another one are dropped."""
MAX_VERDICTS = 50_000
MAX_BYTES = 64_000_000
_APPLICATION = 0x41524A56
_WAIT_S = 10.0


class VerdictCache:
    """Scores by the hash of what was judged, in memory or in an SQLite file that several processes may share.

    Args:
        path: of the file; None keeps the verdicts in memory.
        max_verdicts: of more, those that were used longest ago are dropped.
        max_bytes: of the file, or of memory: of more, half of the verdicts are dropped, those used longest ago.
    Every use raises ConfigError if the file is something else. If it fails later (the disk is full, a process locks
    it), there is a warning, and the judge is asked again: a fault of the file says nothing about what is judged.
    """

    def __init__(
        self, path: str | Path | None = None, max_verdicts: int = MAX_VERDICTS, max_bytes: int = MAX_BYTES
    ) -> None:
        if max_verdicts < 1 or max_bytes < 1:
            raise ValueError(f"max_verdicts and max_bytes must be at least 1, got {max_verdicts} and {max_bytes}")
        self.path = None if path is None else Path(path).expanduser()
        self.max_verdicts, self.max_bytes = max_verdicts, max_bytes
        self._opened: sqlite3.Connection | None = None
        self._warned = False

    @property
    def _file(self) -> sqlite3.Connection:
        """The database. It is opened when it is first used: before that, its folder may not be there."""
        if self._opened is None:
            self._opened = _open(self.path)
        return self._opened

    def get(self, key: str) -> tuple[float, str] | None:
        """The score and the reason under a key."""
        return self._tried(lambda: self._get(key))

    def put(self, key: str, score: float, reason: str) -> None:
        """Remember a verdict, and drop what is too much."""
        self._tried(lambda: self._put(key, score, reason))

    def _tried(self, use: Callable[[], T]) -> T | None:
        try:
            return use()
        except sqlite3.OperationalError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "%s: verdicts are not remembered (%s): free the disk, or name another file", self.path, error
                )
            return None

    def _get(self, key: str) -> tuple[float, str] | None:
        found = self._file.execute("SELECT score, reason FROM verdicts WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        self._file.execute(f"UPDATE verdicts SET used = {_NEXT} WHERE key = ?", (key,))
        return found[0], found[1]

    def _put(self, key: str, score: float, reason: str) -> None:
        self._file.execute(f"INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, {_NEXT})", (key, score, reason))
        if len(self) > self.max_verdicts:
            self._keep(max(1, self.max_verdicts - self.max_verdicts // 10))
        while self.used_bytes > self.max_bytes and len(self) > 0:
            self._keep(len(self) // 2)

    def _keep(self, most: int) -> None:
        """Drop all but the verdicts that were used last."""
        self._file.execute(
            "DELETE FROM verdicts WHERE key NOT IN (SELECT key FROM verdicts ORDER BY used DESC LIMIT ?)", (most,)
        )

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that hold something."""
        pages, free, size = (
            int(self._file.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def __len__(self) -> int:
        count: int = self._file.execute("SELECT count(*) FROM verdicts").fetchone()[0]
        return count

    def close(self) -> None:
        """Close the file; a later use opens it again, and a cache in memory is then empty."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path | None) -> sqlite3.Connection:
    """Raises: ConfigError if the file is something else, or cannot be written."""
    place = ":memory:" if path is None else str(path)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(place, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        _prepare(file, place)
    except (OSError, sqlite3.DatabaseError) as error:
        raise ConfigError(f"{place} cannot hold verdicts ({error}): name another file") from error
    return file


def _prepare(file: sqlite3.Connection, place: str) -> None:
    file.execute("BEGIN")  # both are read as of one moment: another process may be making the file
    (application,) = file.execute("PRAGMA application_id").fetchone()
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    file.execute("COMMIT")
    if application != _APPLICATION and tables:
        file.close()
        raise ConfigError(f"{place} is a database of something else: name another file for the verdicts")
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute("BEGIN IMMEDIATE")  # of two processes that make the file, the second finds the table of the first
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version != CACHE_VERSION:
        file.execute("DROP TABLE IF EXISTS verdicts")
    file.execute(f"PRAGMA application_id = {_APPLICATION}")
    file.execute(f"PRAGMA user_version = {CACHE_VERSION}")
    file.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score REAL, reason TEXT, used INTEGER)")
    file.execute("CREATE INDEX IF NOT EXISTS by_use ON verdicts (used)")
    file.execute("COMMIT")


_NEXT = "(SELECT coalesce(max(used), 0) + 1 FROM verdicts)"
