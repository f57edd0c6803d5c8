"""A SQL tool for one SQLite database. Owns which statements a model may run, how long, and the text of a result.

SQLite's authorizer checks each statement while it is compiled, so that no spelling gets around it. A model may
read, and with `writable=True` change rows. It can never ATTACH, use PRAGMA, change the schema or load extensions.
This protects the host, but not one table from another: give each episode its own database.
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
# Functions that use files or modules, or whose result differs from call to call.
_FORBIDDEN_FUNCTIONS = frozenset(
    {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "random", "randomblob"}
    | {"current_timestamp", "current_date", "current_time"}
)
# Date functions without an argument, or with 'now', read the clock: an episode with them could not be replayed.
_CLOCK = re.compile(r"""\b(date|time|datetime|julianday|unixepoch|strftime)\s*\((\s*\)|[^)]*['"]\s*now\s*['"])""", re.I)
_STEPS_PER_TICK = 1000
_MAX_VALUE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """Limits of one statement.

    Attributes:
        max_rows: most rows returned; further rows are cut off, and the model is told so.
        max_steps: most instructions of SQLite's virtual machine, counted in thousands. This limit is the same
            on every machine.
        timeout_s: most wall seconds, for a statement whose single instructions are slow.
        max_cell_chars: most characters shown of one value.
    """

    max_rows: int = 50
    max_steps: int = 5_000_000
    timeout_s: float = 5.0
    max_cell_chars: int = 200


@dataclass(frozen=True, slots=True)
class SqlResult:
    """The result of a statement.

    Attributes:
        columns: names of the columns.
        rows: at most `SqlLimits.max_rows` rows.
        cut_off: whether there were more rows.
        changed: how many rows the statement changed; -1 for a statement that only reads.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    cut_off: bool
    changed: int


class SqlDatabase:
    """A SQLite database that restricts what statements may do.

    Args:
        path: a file, or `:memory:`. A file is opened read-only unless `writable` or `setup` is given.
        setup: trusted SQL for schema and rows; it runs before the restrictions begin.
        writable: allow INSERT, UPDATE and DELETE.
        limits: limits of one statement.
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

        Raises: ToolError if it is not valid SQL, is not allowed, or exceeds a limit; it then changes nothing.
        """
        if _CLOCK.search(statement):
            raise ToolError("the clock is not available here: write the date or time as text")
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
        """Run one statement and return its result as a compact table, or as JSON with one object per row."""
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
        """Close the database; safe to call twice. A database that is dropped is closed too."""
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
    """Counts the steps and the time of a statement; SQLite interrupts the statement if `spend` returns 1."""

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

    If each episode has its own database, write a method of the environment instead:
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
