"""A SQL tool over one SQLite database: what a model may run, how long, and how a result reads.

SQLite's authorizer decides while a statement is compiled, so no spelling gets round it: reading, and
with `writable=True` changing rows; never ATTACH, PRAGMA, schema changes, or loading extensions. It
protects the host from SQL, not one table from another: give each episode its own database.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from agentrl.errors import ToolError
from agentrl.tool_schema import Tool, tool

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_WRITES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
# Functions that reach files and modules, or that give another result each time.
_FORBIDDEN_FUNCTIONS = frozenset(
    {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "random", "randomblob"}
    | {"current_timestamp", "current_date", "current_time"}
)
# Date functions without an argument, or with 'now': SQLite reads the clock, and no episode would replay.
_CLOCK = re.compile(r"""\b(date|time|datetime|julianday|unixepoch|strftime)\s*\((\s*\)|[^)]*['"]\s*now\s*['"])""", re.I)
_STEPS_PER_TICK = 1000
_MAX_VALUE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """What one statement may use.

    Attributes:
        max_rows: rows returned; the rest is cut off and the model is told.
        max_steps: virtual-machine instructions, rounded to 1000: the same on every machine.
        timeout_s: wall seconds, for the statements whose single instructions are slow.
        max_cell_chars: characters shown of one value.
    """

    max_rows: int = 50
    max_steps: int = 5_000_000
    timeout_s: float = 5.0
    max_cell_chars: int = 200


@dataclass(frozen=True, slots=True)
class SqlResult:
    """Rows of a statement; `changed` counts the rows it wrote, -1 where it only reads."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    cut_off: bool
    changed: int


class SqlDatabase:
    """A SQLite database behind an authorizer.

    Args:
        path: a file, or `:memory:`. A file is opened read-only unless `writable`.
        setup: trusted SQL that runs before the restrictions hold (schema and rows).
        writable: allow INSERT, UPDATE and DELETE.
        limits: what one statement may use.
    """

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        setup: str = "",
        writable: bool = False,
        limits: SqlLimits | None = None,
    ) -> None:
        self._limits = limits or SqlLimits()
        self._writable = writable
        self._authorizer = _Authorizer(writable)
        self._db = _connect(path, writable or bool(setup))
        self._close = weakref.finalize(self, self._db.close)
        self._db.executescript(setup)
        self._restrict()

    def run(self, statement: str) -> SqlResult:
        """Run one statement.

        Raises: ToolError if it is not valid SQL, not allowed, or goes past a limit; nothing is then changed.
        """
        if _CLOCK.search(statement):
            raise ToolError("the clock is not available here: write the date or time out")
        budget = _Budget(self._limits)
        self._db.set_progress_handler(budget.spend, _STEPS_PER_TICK)
        try:
            cursor = self._db.execute(statement)
            rows = cursor.fetchmany(self._limits.max_rows + 1)
            columns = tuple(column[0] for column in cursor.description or ())
            cursor.close()
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError) as error:
            raise ToolError(budget.exceeded or _explain(error, self._writable)) from None
        finally:
            self._db.set_progress_handler(None, 0)
        kept = rows[: self._limits.max_rows]
        return SqlResult(columns, tuple(kept), len(rows) > len(kept), cursor.rowcount)

    def query(self, statement: str, form: Literal["table", "json"] = "table") -> str:
        """Run one statement; its result as a compact table, or as JSON (one object a row)."""
        result = self.run(statement)
        if not result.columns:
            return f"{max(result.changed, 0)} rows changed"
        return self._json(result) if form == "json" else self._table(result)

    def execute_trusted(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement of the environment's own, without restrictions; for set-up and scoring."""
        with self._trusted():
            return self._db.execute(statement, parameters).fetchall()

    def save(self) -> bytes:
        """The whole database as bytes, for `Env.save_extra`."""
        with self._trusted():
            return self._db.serialize()

    def load(self, content: bytes) -> None:
        """Replace the content with what `save` returned, for `Env.load_extra`."""
        with self._trusted():
            self._db.deserialize(content)

    def close(self) -> None:
        """Close the database; safe to call twice. A database that is dropped closes itself."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _trusted(self) -> Iterator[None]:
        self._db.set_authorizer(None)
        try:
            yield
        finally:
            self._restrict()

    def _restrict(self) -> None:
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._db.set_authorizer(self._authorizer)

    def _table(self, result: SqlResult) -> str:
        lines = [" | ".join(result.columns)]
        lines += [" | ".join(self._cell(value) for value in row) for row in result.rows]
        if not result.rows:
            lines.append("(no rows)")
        if result.cut_off:
            lines.append(f"(only the first {self._limits.max_rows} rows)")
        return "\n".join(lines)

    def _json(self, result: SqlResult) -> str:
        rows = [dict(zip(result.columns, map(_json_value, row), strict=True)) for row in result.rows]
        text = json.dumps(rows, ensure_ascii=False)
        return f"{text} (only the first {self._limits.max_rows} rows)" if result.cut_off else text

    def _cell(self, value: Any) -> str:
        text = "NULL" if value is None else str(_json_value(value)).replace("\n", " ")
        most = self._limits.max_cell_chars
        return text if len(text) <= most else text[:most] + "..."


class _Authorizer:
    """Allows or denies each action of a statement.

    It must not refer to the `SqlDatabase`: the connection refers to it, and would keep the database alive.
    """

    def __init__(self, writable: bool) -> None:
        self._writable = writable

    def __call__(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action in _READS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_OK
        if self._writable and action in _WRITES and not (first or "").lower().startswith("sqlite_"):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY


class _Budget:
    """Counts what a statement spends; a true return from `spend` interrupts it."""

    def __init__(self, limits: SqlLimits) -> None:
        self._limits = limits
        self._ticks = 0
        self._end_s = time.monotonic() + limits.timeout_s
        self.exceeded = ""

    def spend(self) -> int:
        self._ticks += 1
        if self._ticks * _STEPS_PER_TICK > self._limits.max_steps:
            self.exceeded = "the statement takes too many steps: use a simpler one, or a LIMIT"
        elif time.monotonic() > self._end_s:
            self.exceeded = f"the statement took longer than {self._limits.timeout_s} s: use a simpler one"
        return int(bool(self.exceeded))


def sql_tool(database: SqlDatabase, *, name: str = "sql", form: Literal["table", "json"] = "table") -> Tool:
    """A tool that runs SQL on one database, for `ToolEnv.extra_tools`.

    A database that belongs to an episode is wrapped in a method of the environment instead:
    `@tool def sql(self, query: str) -> str: return self.database.query(query)`.
    """

    @tool(name=name)
    def sql(query: str) -> str:
        """Run one SQLite statement.

        Args:
            query: the statement.
        """
        return database.query(query, form)

    return Tool.of(sql)


def _connect(path: str | Path, writable: bool) -> sqlite3.Connection:
    where = ":memory:"
    if str(path) != ":memory:":
        where = f"{Path(path).resolve().as_uri()}?mode={'rwc' if writable else 'ro'}"
    return sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False, cached_statements=0)


def _explain(error: Exception, writable: bool) -> str:
    text = str(error)
    if "not authorized" in text or "prohibited" in text:
        allowed = "SELECT, INSERT, UPDATE and DELETE" if writable else "SELECT"
        return f"not allowed here ({text}): only {allowed} statements"
    if "one statement" in text:
        return "give one statement at a time"
    return f"SQL error: {text}"


def _json_value(value: Any) -> Any:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value
