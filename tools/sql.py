"""A SQL tool for one SQLite database. Owns the database of an environment, and the text of a result.

Statements of a model run in a process of their own (`sqlite.process`), which is ended if one takes too long, and whose
memory is bounded. SQLite's authorizer checks them (`sqlite.engine`): a model may read, and with `writable=True` change
rows. It can never ATTACH, use PRAGMA, change the schema or load extensions. This protects the host, but not one table
from another: give each episode its own database. No result depends on the clock, the time zone, chance or the version
of SQLite, so that an episode can be replayed.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from agentrl.errors import ToolError
from agentrl.tool_schema import Tool, tool
from agentrl.tools.sqlite.engine import Engine, Settings, SqlLimits, SqlResult
from agentrl.tools.sqlite.functions import check_size
from agentrl.tools.sqlite.process import Source, run_statement

__all__ = ["SqlDatabase", "SqlLimits", "SqlResult", "sql_tool"]

_READING = ("select", "values")
"""A statement of the environment's own that begins so changes nothing that SQLite does not count."""


class SqlDatabase:
    """A SQLite database that restricts what statements may do.

    Args:
        path: a file, or `:memory:`. A file is opened read-only unless `writable` or `setup` is given.
        setup: trusted SQL for schema and rows; it runs before the restrictions begin.
        writable: allow INSERT, UPDATE and DELETE.
        limits: limits of one statement.
        now: what the clock shows, such as `2026-01-31 12:00:00`. None means that a statement that reads the clock is
            refused, also through a `DEFAULT CURRENT_TIMESTAMP`, a view or a trigger of the schema.
    """

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        setup: str = "",
        writable: bool = False,
        limits: SqlLimits | None = None,
        now: str | None = None,
    ) -> None:
        self._limits = limits or SqlLimits()
        settings = Settings(None if str(path) == ":memory:" else str(path), writable, now, self._limits)
        self._engine = Engine(settings, setup)
        self._close = weakref.finalize(self, self._engine.close)
        self._source = Source(settings)
        self._turn = threading.RLock()

    def run(self, statement: str) -> SqlResult:
        """Run one statement.

        Raises: ToolError if it is not valid SQL, is not allowed, or exceeds a limit; it then changes nothing.
        """
        check_size(statement)
        with self._turn:
            result, image = run_statement(self._source, self._engine.save, statement)
            if image is not None:
                self._engine.load(image)
        return result

    async def arun(self, statement: str) -> SqlResult:
        """As `run`, while the event loop goes on."""
        return await asyncio.to_thread(self.run, statement)

    def query(self, statement: str, form: Literal["table", "json"] = "table") -> str:
        """Run one statement and return its result as a compact table, or as JSON with one object per row."""
        result = self.run(statement)
        if not result.columns:
            return f"{max(result.changed, 0)} rows changed"
        return self._json(result) if form == "json" else self._table(result)

    async def aquery(self, statement: str, form: Literal["table", "json"] = "table") -> str:
        """As `query`, while the event loop goes on."""
        return await asyncio.to_thread(self.query, statement, form)

    def execute_trusted(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement of the environment's own, in this process, without restrictions; for set-up and scoring."""
        with self._turn:
            before = self._engine.changes()
            try:
                rows: list[tuple[Any, ...]] = self._engine.execute_trusted(statement, parameters)
                return rows
            finally:
                if not statement.lstrip().lower().startswith(_READING) or self._engine.changes() != before:
                    self._source.changed()

    def save(self) -> bytes:
        """The whole database as bytes, for `Env.save_extra`."""
        with self._turn:
            content: bytes = self._engine.save()
            return content

    def load(self, content: bytes) -> None:
        """Replace the content with what `save` returned, for `Env.load_extra`."""
        with self._turn:
            self._engine.load(content)
            self._source.changed()

    def close(self) -> None:
        """Close the database; safe to call twice. A database that is dropped is closed too."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _table(self, result: SqlResult) -> str:
        head = " | ".join(map(self._cell, result.columns))
        lines = [" | ".join(map(self._cell, row)) for row in result.rows]
        shown = self._fitting(lines, self._limits.max_chars - len(head))
        cut_off = result.cut_off or len(shown) < len(lines)
        note = [] if lines else ["(no rows)"]
        return "\n".join([head, *shown, *note, *self._note(len(shown), cut_off)])

    def _json(self, result: SqlResult) -> str:
        columns = list(map(self._cell, result.columns))
        objects = [dict(zip(columns, map(self._json_value, row), strict=True)) for row in result.rows]
        lines = [json.dumps(each, ensure_ascii=False) for each in objects]
        shown = self._fitting(lines, self._limits.max_chars)
        cut_off = result.cut_off or len(shown) < len(lines)
        return " ".join([f"[{', '.join(shown)}]", *self._note(len(shown), cut_off)])

    def _fitting(self, lines: Sequence[str], most: int) -> Sequence[str]:
        """The first lines, as many as fit. Raises: ToolError if not even one does."""
        end = 0
        for line in lines:
            most -= len(line) + 2
            if most < 0:
                break
            end += 1
        if most < 0 and end == 0:
            raise ToolError("the result is too wide: select fewer columns")
        return lines[:end]

    def _note(self, rows: int, cut_off: bool) -> list[str]:
        return [f"(only the first {rows} rows)"] if cut_off else []

    def _cell(self, value: Any) -> str:
        return "NULL" if value is None else str(self._json_value(value)).replace("\n", " ")

    def _json_value(self, value: Any) -> Any:
        """A value that JSON can hold: bytes are named, not shown; infinity is a text; a long text is cut off."""
        if isinstance(value, bytes):
            return f"<{len(value)} bytes>"
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        most = self._limits.max_cell_chars
        return value[:most] + "..." if isinstance(value, str) and len(value) > most else value


def sql_tool(database: SqlDatabase, *, name: str = "sql", form: Literal["table", "json"] = "table") -> Tool:
    """A tool that runs SQL on one database, for `ToolEnv.extra_tools`.

    If each episode has its own database, write a method of the environment instead:
    `@tool async def sql(self, query: str) -> str: return await self.database.aquery(query)`.
    """

    @tool(name=name)
    async def sql(query: str) -> str:
        """Run one SQLite statement.

        Args:
            query: the statement.
        """
        return await database.aquery(query, form)

    return Tool.of(sql)
