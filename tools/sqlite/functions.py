"""SQLite's functions that read the clock or may run for minutes, replaced by ones that do neither.

Also bounds what a statement may ask of SQLite's compiler. `agentrl.tools.sql` owns the rest of the rules.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

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
_MOST_TABLE_EXPRESSIONS = 100
# n references make at most 3**(n/3) copies: up to this number of them, a statement needs no closer look.
_FEW_REFERENCES = 31
_CACHED_CHARS = 64
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
    r"""|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*|\S""",
    re.DOTALL,
)
_WRITTEN_OUT = re.compile(
    r"[0-9:.+ -]++(?:T[0-9:.]*)?|[+-]?[0-9]+ (?:day|month|year|hour|minute|second)s?|start of [a-z]+"
)
_EXPLAIN = re.compile(r"(?:[\s;\ufeff]|--[^\n]*+\n|/\*.*?\*/)*+explain\b", re.IGNORECASE | re.DOTALL)
_WIDTH = re.compile(r"\*|[0-9]+")
_WIDTH_DIGITS = 6
# SQLite reads `$name(...)` as one variable, whatever the parentheses hold.
_WORD_WITH_PARENTHESIS = re.compile(r"[\w$@#:\x80-\U0010ffff]+\(?")
_SIGNS_OF_A_VARIABLE = frozenset("$@#:")
_BEFORE_A_TABLE = ("from", "join", "in", ",", "(")


class _SqliteFunctions:
    """SQLite's own functions; of a date function, the value without the clock and the time zone of the machine.

    SQLite itself tells what reads these: in a CHECK constraint it refuses that, however it is spelled.
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
        checked = values[1:] if name == "strftime" else values
        if checked and all(isinstance(value, (int, float)) or _is_written_out(value) for value in checked):
            return self.plain(name, *values)
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


@lru_cache(maxsize=1)
def _own() -> _SqliteFunctions:
    return _SqliteFunctions()


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
        if now is not None and _own().plain("datetime", now) is None:
            raise ValueError(f"now must be a time as SQLite reads it, such as '2026-01-31 12:00:00', got {now!r}")
        self.now = None if now is None else _own().plain("datetime", now)
        self.trusted = False
        self.refused = ""

    def install(self, db: sqlite3.Connection) -> None:
        """Put the functions into a connection, in place of SQLite's own."""
        for name in _own().known():
            db.create_function(name, -1, partial(self._date, name), deterministic=True)
        for name, function in _CURRENT.items():
            db.create_function(name, 0, partial(self._date, function))
        for name in _TRIMS:
            db.create_function(name, 2, partial(self._trim, name), deterministic=True)
        for name in _own().known(_PRINTS):
            db.create_function(name, -1, partial(self._print, name), deterministic=True)

    def _date(self, name: str, *values: Any) -> Any:
        if self.trusted and self.now is None:
            return _own().plain(name, *values)
        if self.now is not None:
            values = self._with_now(name, values)
        try:
            # Without an argument, SQLite's functions read the clock.
            return _own().pure(name, *values) if values else self._refuse(NO_CLOCK)
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
        return _own().plain(name, text, characters)

    def _print(self, name: str, *values: Any) -> Any:
        # SQLite writes a billion characters before it notices that the result is too long.
        layout = values[0] if values else None
        layout = layout.decode(errors="replace") if isinstance(layout, bytes) else layout
        if isinstance(layout, str) and not self.trusted:
            widths = _WIDTH.findall(layout)
            if any(width == "*" or len(width) > _WIDTH_DIGITS or int(width) > _MOST_WIDTH for width in widths):
                return self._refuse(f"{name} takes widths up to {_MOST_WIDTH}, written in its first argument")
        return _own().plain(name, *values)

    def _refuse(self, reason: str) -> Any:
        self.refused = reason
        raise ValueError(reason)


def _is_written_out(value: Any) -> bool:
    """Whether a time or a modifier surely depends on nothing; this only saves the check by SQLite."""
    return isinstance(value, str) and _WRITTEN_OUT.fullmatch(value) is not None


def _is_now(value: Any) -> bool:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return isinstance(text, str) and text.partition("\0")[0].lower() == "now"


class _Expression(NamedTuple):
    """A common table expression: its name, and the places of the name and of the parentheses around its body."""

    name: str
    at: int
    start: int
    end: int


def check_size(statement: str) -> None:
    """Refuse a statement that SQLite's compiler cannot handle in a short time, and one that shows its work.

    SQLite copies a common table expression into each place that refers to it, so that 30 expressions that each refer
    twice to the one before make 2**30 copies.

    Raises: ToolError.
    """
    if len(statement) > _MOST_STATEMENT_CHARS:
        raise ToolError(f"the statement has {len(statement)} characters; at most {_MOST_STATEMENT_CHARS} are allowed")
    if _EXPLAIN.match(statement):
        raise ToolError("EXPLAIN is not allowed here: what it shows depends on the version of SQLite")
    lowered = statement.lower()
    if "with" not in lowered or sum(map(lowered.count, _BEFORE_A_TABLE)) <= _FEW_REFERENCES:
        return
    words = _WORD_WITH_PARENTHESIS.findall(statement)
    if any(word[-1] == "(" and not _SIGNS_OF_A_VARIABLE.isdisjoint(word) for word in words):
        raise ToolError("the statement contains a variable: write the value")
    tokens = list(_names(statement))
    found = list(_table_expressions(tokens))
    if len(found) > _MOST_TABLE_EXPRESSIONS or _copies(tokens, found) > _MOST_COPIES:
        raise ToolError("the expressions after WITH refer to each other too often: use fewer of them")


def _copies(tokens: list[str], found: list[_Expression]) -> int:
    """How many copies of table expressions the compiler makes; too many are counted as one more than are allowed."""
    names = {expression.name for expression in found}
    defined = {expression.at for expression in found}
    references = [
        (i, name)
        for i, (before, name) in enumerate(pairwise(tokens), start=1)
        if name in names and before in _BEFORE_A_TABLE and i not in defined
    ]
    inside: dict[str, list[str]] = {name: [] for name in names}
    for expression in found:
        inside[expression.name] += [name for i, name in references if expression.start < i < expression.end]
    known: dict[str, int] = {}

    def copies(name: str) -> int:
        if name not in known:
            known[name] = 1  # an expression that refers to itself is a loop, which is not copied
            for each, times in Counter(inside[name]).items():
                known[name] = min(known[name] + times * copies(each), _MOST_COPIES + 1)
        return known[name]

    return max((copies(name) for name in names), default=0) * max(1, len(references))


def _names(statement: str) -> Iterator[str]:
    """The words and signs of a statement in lower case, names without quotes."""
    for found in _TOKEN.findall(statement):
        token = found.lstrip("\ufeff")  # SQLite reads it as a blank
        if not token or token.startswith(("--", "/*")):
            continue
        quote = token[0]
        if quote in "'\"`[" and len(token) > 1:
            inner = token[1:-1].lower()
            yield inner if quote == "[" else inner.replace(quote * 2, quote)
        else:
            yield token.lower()


def _table_expressions(tokens: list[str]) -> Iterator[_Expression]:
    """What stands before `AS (`, `AS MATERIALIZED (` and `AS NOT MATERIALIZED (`, with or without names of columns."""
    closing = _closing(tokens)
    opening = {end: start for start, end in closing.items()}
    for i, token in enumerate(tokens):
        if token != "as":
            continue
        body = next((j for j in range(i + 1, i + 4) if tokens[j : j + 1] not in (["not"], ["materialized"])), i)
        before = opening.get(i - 1, i) - 1
        if before >= 0 and tokens[body : body + 1] == ["("]:
            yield _Expression(tokens[before], before, body, closing.get(body, len(tokens)))


def _closing(tokens: list[str]) -> dict[int, int]:
    """For the place of each opening parenthesis, that of the one that closes it."""
    waiting: list[int] = []
    pairs = {}
    for i, token in enumerate(tokens):
        if token == "(":
            waiting.append(i)
        elif token == ")" and waiting:
            pairs[waiting.pop()] = i
    return pairs
