"""SQLite's functions that read the clock or may run for minutes, replaced by ones that do neither.

Also bounds what a statement may ask of SQLite's compiler. `agentrl.tools.sql` owns the rest of the rules.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from agentrl.errors import ToolError

NO_CLOCK = "the clock is not available here: write the date or time as text"
_DATES = ("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff")
_CURRENT = {"current_timestamp": "datetime", "current_date": "date", "current_time": "time"}
_TRIMS = ("trim", "ltrim", "rtrim")
_PRINTS = ("printf", "format")
_MOST_TRIMMED = 100
_MOST_WIDTH = 10_000
_MOST_STATEMENT_CHARS = 100_000
_MOST_COPIES = 100_000
_CACHED_CHARS = 64
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|$)|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[^\W\d][\w$]*|\S""", re.DOTALL
)
_WIDTH = re.compile(r"\*|[0-9]+")
_WIDTH_DIGITS = 6
_BEFORE_A_TABLE = frozenset({"from", "join", "in", ",", "("})


class _PureDates:
    """SQLite's date functions without the clock and without the time zone of the machine.

    SQLite itself tells what reads them: in a CHECK constraint it refuses that, however it is spelled.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._tables: set[str] = set()
        self._cached = lru_cache(maxsize=4096, typed=True)(self._pure)

    def known(self, names: Sequence[str] = _DATES) -> list[str]:
        """The functions of these names that this version of SQLite has."""
        return [name for name in names if self._has(name)]

    def pure(self, name: str, *values: Any) -> Any:
        """The value of a function. Raises: sqlite3.OperationalError if it depends on the clock or the time zone."""
        short = all(not isinstance(value, (str, bytes)) or len(value) <= _CACHED_CHARS for value in values)
        return (self._cached if short else self._pure)(name, *values)

    def plain(self, name: str, *values: Any) -> Any:
        """The value of a function, which may depend on the clock."""
        with self._lock:
            return self._value(name, values)

    def _pure(self, name: str, *values: Any) -> Any:
        columns = [f"a{i}" for i in range(len(values))]
        table = f"{name}_{len(values)}"
        with self._lock:
            if table not in self._tables:
                names = ", ".join(columns)
                self._db.execute(f"CREATE TABLE {table} ({names}, CHECK (typeof({name}({names})) <> ''))")
                self._db.execute(f"INSERT INTO {table} VALUES ({', '.join('NULL' for _ in values)})")
                self._tables.add(table)
            self._db.execute(f"UPDATE {table} SET {', '.join(f'{column} = ?' for column in columns)}", values)
            return self._value(name, values)

    def _value(self, name: str, values: tuple[Any, ...]) -> Any:
        return self._db.execute(f"SELECT {name}({', '.join('?' for _ in values)})", values).fetchone()[0]

    def _has(self, name: str) -> bool:
        try:
            self._db.execute(f"SELECT {name}(?, ?)", ("", ""))
        except sqlite3.OperationalError:
            return False
        return True


_dates = _PureDates()


class Functions:
    """The functions of one connection. It must not refer to the connection, which refers to it.

    Args:
        now: what the clock shows, as SQLite reads a time; None means that a statement of the model which reads the
            clock is refused.
    Attributes:
        trusted: whether the statement that runs is the environment's own: without `now`, it may read the real clock.
        refused: why the last statement was refused; empty if it was not.
    """

    def __init__(self, now: str | None) -> None:
        if now is not None and _dates.plain("datetime", now) is None:
            raise ValueError(f"now must be a time as SQLite reads it, such as '2026-01-31 12:00:00', got {now!r}")
        self.now = None if now is None else _dates.plain("datetime", now)
        self.trusted = False
        self.refused = ""

    def install(self, db: sqlite3.Connection) -> None:
        """Put the functions into a connection, in place of SQLite's own."""
        for name in _dates.known():
            db.create_function(name, -1, partial(self._date, name), deterministic=True)
        for name, function in _CURRENT.items():
            db.create_function(name, 0, partial(self._date, function))
        for name in _TRIMS:
            db.create_function(name, 2, partial(self._trim, name), deterministic=True)
        for name in _dates.known(_PRINTS):
            db.create_function(name, -1, partial(self._print, name), deterministic=True)

    def _date(self, name: str, *values: Any) -> Any:
        if self.trusted and self.now is None:
            return _dates.plain(name, *values)
        if self.now is not None:
            values = self._with_now(name, values)
        try:
            # Without an argument, SQLite's functions read the clock.
            return _dates.pure(name, *values) if values else self._refuse(NO_CLOCK)
        except sqlite3.OperationalError as error:
            return self._refuse(NO_CLOCK if "non-deterministic" in str(error) else str(error))

    def _with_now(self, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with `now`, and a time that is left out, replaced."""
        places = (0, 1) if name == "timediff" else (1,) if name == "strftime" else (0,)
        if places == (len(values),):
            return (*values, self.now)
        return tuple(self.now if i in places and _is_now(value) else value for i, value in enumerate(values))

    def _trim(self, name: str, text: Any, characters: Any) -> Any:
        # SQLite compares each character of the text with each of these.
        if isinstance(characters, (str, bytes)) and len(characters) > _MOST_TRIMMED:
            return self._refuse(f"{name} takes at most {_MOST_TRIMMED} characters to remove")
        return _dates.plain(name, text, characters)

    def _print(self, name: str, *values: Any) -> Any:
        # SQLite writes a billion characters before it notices that the result is too long.
        layout = values[0] if values else None
        layout = layout.decode(errors="replace") if isinstance(layout, bytes) else layout
        if isinstance(layout, str) and not self.trusted:
            widths = _WIDTH.findall(layout)
            if any(width == "*" or len(width) > _WIDTH_DIGITS or int(width) > _MOST_WIDTH for width in widths):
                return self._refuse(f"{name} takes widths up to {_MOST_WIDTH}, written in its first argument")
        return _dates.plain(name, *values)

    def _refuse(self, reason: str) -> Any:
        self.refused = reason
        raise ValueError(reason)


def _is_now(value: Any) -> bool:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return isinstance(text, str) and text.partition("\0")[0].lower() == "now"


def check_size(statement: str) -> None:
    """Refuse a statement that SQLite's compiler cannot handle in a short time; nothing can stop the compiler.

    SQLite copies a common table expression into each place that refers to it, so that 30 expressions that each refer
    twice to the one before make 2**30 copies.

    Raises: ToolError.
    """
    if len(statement) > _MOST_STATEMENT_CHARS:
        raise ToolError(f"the statement has {len(statement)} characters; at most {_MOST_STATEMENT_CHARS} are allowed")
    tokens = [name for name in _names(statement) if name]
    copies = 1
    for table in _table_expressions(tokens):
        named = sum(name == table and before in _BEFORE_A_TABLE for before, name in pairwise(tokens))
        copies *= max(1, named)
        if copies > _MOST_COPIES:
            raise ToolError("the expressions after WITH refer to each other too often: use fewer of them")


def _names(statement: str) -> Iterator[str]:
    """The words and signs of a statement in lower case, names without quotes; empty for a comment."""
    for token in _TOKEN.findall(statement):
        if token.startswith(("--", "/*")):
            yield ""
        elif token[0] in "'\"`[" and len(token) > 1:
            yield token[1:-1].lower() or "''"
        else:
            yield token.lower()


def _table_expressions(tokens: list[str]) -> set[str]:
    """The names before `AS (`, `AS MATERIALIZED (` and `AS NOT MATERIALIZED (`, with or without columns."""
    found = set()
    for i, token in enumerate(tokens):
        after = next((t for t in tokens[i + 1 : i + 4] if t not in ("not", "materialized")), "")
        if token != "as" or after != "(" or i == 0:
            continue
        before = i - 1
        if tokens[before] == ")":
            depth = 1
            while depth and before > 0:
                before -= 1
                depth += (tokens[before] == ")") - (tokens[before] == "(")
            before -= 1
        if before >= 0:
            found.add(tokens[before])
    return found
