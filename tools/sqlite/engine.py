"""The rules for SQL statements that a model writes, on one SQLite connection. Owns which are allowed, and their limits.

SQLite's authorizer checks each statement while it is compiled, so that no spelling gets around it. What takes SQLite
long or much memory within one instruction is not bounded here: `process` runs statements where they can be ended.
"""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.sqlite.functions import Functions, check_size

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_WRITES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
# Functions that use files or modules, or whose result differs from call to call or from machine to machine.
_FORBIDDEN_FUNCTIONS = frozenset(
    {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "random", "randomblob", "total_changes"}
    | {"sqlite_version", "sqlite_source_id", "sqlite_compileoption_get", "sqlite_compileoption_used"}
)
_CLOCK = frozenset({"current_timestamp", "current_date", "current_time"})
# One instruction on long values may take some milliseconds, so that the clock must be read often.
_STEPS_PER_TICK = 100
_MAX_PATTERN_BYTES = 1_000
_LIMITED = (sqlite3.SQLITE_LIMIT_LENGTH, sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH)
# A virtual table (full-text search, R*Tree) keeps its content in tables of its own, named after it.
_INNER_TABLES = ("data", "idx", "content", "docsize", "config", "segments", "segdir", "stat", "node", "parent", "rowid")
_MAX_RESULT_BYTES = 4_000_000
# SQLite gives the row after this one a random number.
_LAST_ROW = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """Limits of one statement.

    Attributes:
        max_rows: most rows returned; further rows are cut off, and the model is told so.
        max_steps: most instructions of SQLite's virtual machine, counted in thousands. This limit is the same
            on every machine.
        timeout_s: most wall seconds, for a statement whose single instructions are slow.
        max_cell_chars: most characters shown of one value, or of the name of a column.
        max_chars: most characters of a result; further rows are cut off.
        max_value_bytes: most bytes of one value; a statement that reads or makes a longer one is refused.
        max_memory_bytes: most memory of a statement, with what it sorts, and most bytes that a database in a file may
            grow by; also the most that a database in memory may hold.
    """

    max_rows: int = 50
    max_steps: int = 5_000_000
    timeout_s: float = 5.0
    max_cell_chars: int = 200
    max_chars: int = 20_000
    max_value_bytes: int = 100_000
    max_memory_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """How a database is opened, as the arguments of `SqlDatabase` say it; `path` is None for one in memory."""

    path: str | None = None
    writable: bool = False
    now: str | None = None
    limits: SqlLimits = field(default_factory=SqlLimits)


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


class Engine:
    """A connection that restricts what statements may do. It bounds neither memory nor the time of one instruction.

    Args:
        settings: how it is opened.
        setup: trusted SQL that runs before the restrictions begin.
        wait_s: how long to wait for other connections.
    """

    def __init__(self, settings: Settings, setup: str = "", wait_s: float = 5.0) -> None:
        self._limits, self._writable = settings.limits, settings.writable
        self._functions = Functions(settings.now)
        clock = _CLOCK if settings.now is None else frozenset()
        self._authorizer = _Authorizer(self._writable, _FORBIDDEN_FUNCTIONS | clock)
        self._db = _connect(settings.path, self._writable or bool(setup), wait_s)
        self._close = weakref.finalize(self, self._db.close)
        self._db.text_factory = _text
        self._db.execute("PRAGMA temp_store = 2")  # in memory, which is bounded; files for what is sorted would not be
        self._functions.install(self._db)
        self._functions.trusted = True
        self._limits_before = {limit: self._db.getlimit(limit) for limit in _LIMITED}
        self._db.executescript(setup)
        self._find_virtual_tables()
        self._restrict()

    def run(self, statement: str) -> SqlResult:
        """Run one statement.

        Raises: ToolError if it is not valid SQL, is not allowed, or exceeds a limit; it then changes nothing.
        """
        check_size(statement)
        budget = _Budget(self._limits)
        self._functions.refused = ""
        try:
            with self._undone_if_it_fails():
                return self._bounded(statement, budget)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError, OverflowError, MemoryError) as error:
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise EnvFault(f"another connection holds the database: {error}", who="host") from error
            raise ToolError(budget.exceeded or self._functions.refused or _explain(error, self._writable)) from None

    def _bounded(self, statement: str, budget: _Budget) -> SqlResult:
        self._db.set_progress_handler(budget.spend, _STEPS_PER_TICK)
        try:
            return self._result(self._db.execute(statement))
        finally:
            self._db.set_progress_handler(None, 0)

    def _result(self, cursor: sqlite3.Cursor) -> SqlResult:
        try:
            columns = tuple(column[0] for column in cursor.description or ())
            rows: list[tuple[Any, ...]] = []
            size = 0
            for row in cursor:
                if len(rows) == self._limits.max_rows:
                    return SqlResult(columns, tuple(rows), True, cursor.rowcount)
                size += sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)
                if size > _MAX_RESULT_BYTES:
                    raise ToolError("the result is too large: select fewer columns or rows, or parts of them")
                rows.append(row)
            return SqlResult(columns, tuple(rows), False, cursor.rowcount)
        finally:
            cursor.close()

    @contextmanager
    def _undone_if_it_fails(self) -> Iterator[None]:
        """Undo what a statement changed if it fails later, or leaves the next row number to chance."""
        if not self._writable:
            yield
            return
        self._authorizer.written.clear()
        self._own("SAVEPOINT statement")
        try:
            yield
            self._check_row_numbers()
        except BaseException:
            if self._db.in_transaction:
                self._own("ROLLBACK TO statement")
            raise
        finally:
            if self._db.in_transaction:
                self._own("RELEASE statement")

    def _own(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a short statement of this class itself, which the authorizer would refuse."""
        self._db.set_authorizer(None)
        try:
            return self._db.execute(statement).fetchall()
        finally:
            self._db.set_authorizer(self._authorizer)

    def _check_row_numbers(self) -> None:
        for table in sorted(self._authorizer.written):
            quoted = table.replace('"', '""')
            try:
                ((last,),) = self._own(f'SELECT max(rowid) FROM "{quoted}"')
            except sqlite3.Error:  # a view, or a table without row numbers
                continue
            if last == _LAST_ROW:
                raise ToolError(f"{table} must not have row {_LAST_ROW}: SQLite would number the next row at random")

    def execute_trusted(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement of the environment's own, without restrictions; for set-up and scoring."""
        with self._trusted():
            return self._db.execute(statement, parameters).fetchall()

    def save(self) -> bytes:
        """The whole database as bytes, for `Env.save_extra`."""
        with self._trusted():
            if self._db.execute("PRAGMA page_count").fetchone() == (0,):
                self._db.execute("PRAGMA user_version = 0")  # SQLite cannot serialize a database without a page
            return self._db.serialize()

    def load(self, content: bytes) -> None:
        """Replace the content with what `save` returned, for `Env.load_extra`."""
        with self._trusted():
            self._db.deserialize(content)
            self._find_virtual_tables()

    def bound_pages(self, most_bytes: int) -> None:
        """Let a database in memory not grow above a size, or not at all if it is larger already."""
        ((page_bytes,),) = self._own("PRAGMA page_size")
        self._own(f"PRAGMA max_page_count = {max(1, most_bytes // page_bytes)}")

    def changes(self) -> tuple[int, int]:
        """Two numbers that differ from those of before if rows or the schema have changed since."""
        with self._trusted():
            ((schema,),) = self._db.execute("PRAGMA schema_version").fetchall()
        return self._db.total_changes, schema

    def close(self) -> None:
        """Close the database; safe to call twice. A database that is dropped is closed too."""
        self._close()

    @contextmanager
    def _trusted(self) -> Iterator[None]:
        self._db.set_authorizer(None)
        self._functions.trusted = True
        for limit, most in self._limits_before.items():
            self._db.setlimit(limit, most)
        try:
            yield
        finally:
            self._restrict()

    def _find_virtual_tables(self) -> None:
        kept = "SELECT name FROM sqlite_master WHERE lower(sql) LIKE 'create virtual table%'"
        names = [name for (name,) in self._db.execute(kept)]
        self._authorizer.virtual = [name.lower() for name in names]
        for name in names:  # SQLite reads its inner tables at first use, which a model's statement may not
            quoted = name.replace('"', '""')
            self._db.execute(f'SELECT 1 FROM "{quoted}" LIMIT 0').close()

    def _restrict(self) -> None:
        self._functions.trusted = False
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._limits.max_value_bytes)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _MAX_PATTERN_BYTES)
        self._db.set_authorizer(self._authorizer)


class _Authorizer:
    """Allows or denies each action of a statement.

    It must not refer to the `SqlDatabase`: the connection refers to it, and would keep the database alive.
    """

    def __init__(self, writable: bool, forbidden: Set[str]) -> None:
        self._writable = writable
        self._forbidden = forbidden
        self.written: set[str] = set()
        """The tables that a statement changes; whoever runs a statement clears it before."""
        self.virtual: list[str] = []

    def __call__(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action in _READS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in self._forbidden:
            return sqlite3.SQLITE_OK
        if self._writable and action in _WRITES and self._may_change((first or "").lower()):
            self.written.add((first or "").lower())
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _may_change(self, table: str) -> bool:
        """Whether a table is the model's to change: not one of SQLite's own, nor one inside a virtual table.

        A statement that changes the inner tables by itself would leave the virtual table unreadable.
        """
        if table.startswith("sqlite_"):
            return False
        inner_of = [v for v in self.virtual for inner in _INNER_TABLES if table == f"{v}_{inner}"]
        return not inner_of or bool(self.written.intersection(inner_of))


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


def _connect(path: str | None, writable: bool, wait_s: float) -> sqlite3.Connection:
    where = ":memory:"
    if path is not None:
        where = f"{Path(path).resolve().as_uri()}?mode={'rwc' if writable else 'ro'}"
    return sqlite3.connect(
        where, timeout=wait_s, uri=True, isolation_level=None, check_same_thread=False, cached_statements=0
    )


def _explain(error: Exception, writable: bool) -> str:
    if isinstance(error, MemoryError):
        return "the statement needs too much memory: use a simpler one"
    if isinstance(error, UnicodeEncodeError):
        return "the statement contains a lone surrogate (half a character)"
    text = str(error)
    if "not authorized" in text or "prohibited" in text:
        allowed = "SELECT, INSERT, UPDATE and DELETE" if writable else "SELECT"
        return f"not allowed here ({text}): only {allowed} statements"
    if "one statement" in text:
        return "give one statement at a time"
    return f"SQL error: {text}"


def _text(content: bytes) -> str:
    """A text of the database. A statement can make one that is not UTF-8; it must not stop those who read it later."""
    return content.decode("utf-8", "replace")
