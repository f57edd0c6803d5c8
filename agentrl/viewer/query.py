"""What a request may ask of the index: filters, pages by key, lists of values, one task in every source.

Texts from outside become values of a query, never part of its words.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from agentrl.viewer.index import COLUMNS, FACETS, Index
from agentrl.viewer.sources import Source

MOST_ROWS = 200
MOST_LINE = 1 << 40
_MOST_VALUES = 200
_SCAN_BYTES = 256 << 20
_SCAN_S = 0.5
_BATCH = 2048
_PIECE_BYTES = 1 << 20
_SHOWN = ", ".join(c for c in COLUMNS if c not in ("source", "offset"))
_Place = Mapping[str, int]
"""Line, offset and size of a row."""
_Whole = Annotated[int | None, Field(ge=-MOST_LINE, le=MOST_LINE)]


class EpisodeQuery(BaseModel):
    """Which episodes of a source, and which page of them.

    Attributes:
        before, after: lines below or above this one; newest first, or oldest first where `after` is given.
        task: the beginning of its id.
        text: occurs in the record, as it is written; small and capital letters differ.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    before: int | None = Field(None, ge=1, le=MOST_LINE)
    after: int | None = Field(None, ge=0, le=MOST_LINE)
    limit: int = Field(50, ge=1, le=MOST_ROWS)
    task: str = Field("", max_length=300)
    env: str = Field("", max_length=300)
    stage: str | None = Field(None, max_length=300)
    mode: str = Field("", max_length=40)
    status: str = Field("", max_length=40)
    ending: str = Field("", max_length=40)
    split: str = Field("", max_length=300)
    success: bool | None = None
    superseded: bool | None = None
    reward_min: float | None = None
    reward_max: float | None = None
    step_min: _Whole = None
    step_max: _Whole = None
    version_min: _Whole = None
    version_max: _Whole = None
    text: str = Field("", max_length=300)


class Page(BaseModel):
    """A page of rows.

    Attributes:
        next: the line to go on from, `before` it or `after` it; None at the end.
        scanned: whether the search stopped early, so that `next` may lead to more.
    """

    rows: list[dict[str, Any]]
    next: int | None
    scanned: bool = False


def episodes(index: Index, source: Source, asked: EpisodeQuery) -> Page:
    """One page of the episodes of a source."""
    if asked.text:
        try:
            return _searched(index, source, asked)
        except FileNotFoundError:  # a run that has played nothing yet, or a store that is gone
            return Page(rows=[], next=None)
    rows = _page(index, source, asked, asked.limit, _SHOWN)
    return Page(rows=[_shown(row) for row in rows], next=_next(rows, asked.limit))


def _next(rows: Sequence[Mapping[str, Any]], limit: int) -> int | None:
    return rows[-1]["line"] if len(rows) == limit else None


def _page(index: Index, source: Source, asked: EpisodeQuery, limit: int, columns: str) -> list[dict[str, Any]]:
    wheres, values = _where(asked)
    order = "ASC" if asked.after is not None else "DESC"
    query = (
        f"SELECT {columns} FROM episodes WHERE source = :source {''.join(f'AND {w} ' for w in wheres)}"
        f"ORDER BY line {order} LIMIT :limit"
    )
    return index.rows(query, {**values, "source": source.id, "limit": limit})


def _where(asked: EpisodeQuery) -> tuple[list[str], dict[str, Any]]:
    """Conditions, and the values of their names."""
    wheres, values = [], {}
    for name in ("env", "mode", "status", "ending", "split", "success", "superseded", "stage"):
        value = getattr(asked, name)
        if value not in ("", None) or (name == "stage" and value == ""):
            wheres.append(f"{name} = :{name}")
            values[name] = value
    for column in ("reward", "step", "version"):
        for end, sign in (("min", ">="), ("max", "<=")):
            value = getattr(asked, f"{column}_{end}")
            if value is not None:
                wheres.append(f"{column} {sign} :{column}_{end}")
                values[f"{column}_{end}"] = value
    if asked.task:
        wheres.append("substr(task, 1, :task_length) = :task")
        values |= {"task": asked.task, "task_length": len(asked.task)}
    for name, sign in (("before", "<"), ("after", ">")):
        if getattr(asked, name) is not None:
            wheres.append(f"line {sign} :{name}")
            values[name] = getattr(asked, name)
    return wheres, values


def _searched(index: Index, source: Source, asked: EpisodeQuery) -> Page:
    """A page of the episodes whose record holds a text; a part of the store is read at a time."""
    needles, lines, read = _written(asked.text), list[int](), 0
    until = time.monotonic() + _SCAN_S
    with source.store.open("rb") as file:
        while True:
            batch = _page(index, source, asked, _BATCH, "line, offset, size")
            for piece in _pieces(batch):
                text = _read(file, piece)
                lines += _found(text, piece, needles)
                read += len(text)
                if len(lines) >= asked.limit:
                    return Page(rows=_rows_of(index, source, lines[: asked.limit]), next=lines[asked.limit - 1])
                if read > _SCAN_BYTES or time.monotonic() > until:
                    return Page(rows=_rows_of(index, source, lines), next=piece[-1]["line"], scanned=True)
            if len(batch) < _BATCH:
                return Page(rows=_rows_of(index, source, lines), next=None)
            asked = asked.model_copy(update={"after" if asked.after is not None else "before": batch[-1]["line"]})


def _pieces(batch: Sequence[_Place]) -> Iterator[list[_Place]]:
    """Rows whose lines stand close together, so that one reading takes them all."""
    piece: list[_Place] = []
    for row in batch:
        both = (piece[0], row) if piece else (row,)
        span = max(r["offset"] + r["size"] for r in both) - min(r["offset"] for r in both)
        if piece and span > max(_PIECE_BYTES, row["size"]):
            yield piece
            piece = []
        piece.append(row)
    if piece:
        yield piece


def _read(file: BinaryIO, piece: Sequence[_Place]) -> bytes:
    first, last = sorted((piece[0], piece[-1]), key=lambda row: row["offset"])
    file.seek(first["offset"])
    return file.read(last["offset"] + last["size"] - first["offset"])


def _found(text: bytes, piece: Sequence[_Place], needles: Iterable[bytes]) -> list[int]:
    """The lines of a piece that hold one of the needles, in the order of the piece."""
    start = min(piece[0]["offset"], piece[-1]["offset"])
    return [
        row["line"]
        for row in piece
        if any(text.find(needle, row["offset"] - start, row["offset"] - start + row["size"]) >= 0 for needle in needles)
    ]


def _rows_of(index: Index, source: Source, lines: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of some lines, in their order."""
    marks = ", ".join("?" * len(lines))
    query = f"SELECT {_SHOWN} FROM episodes WHERE source = ? AND line IN ({marks})"
    rows = {row["line"]: _shown(row) for row in index.rows(query, (source.id, *lines))}
    return [rows[line] for line in lines if line in rows]


def _written(text: str) -> set[bytes]:
    """A text as the lines of a store may hold it."""
    return {json.dumps(text, ensure_ascii=plain)[1:-1].encode(errors="surrogatepass") for plain in (True, False)}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **{name: bool(row[name]) for name in ("success", "superseded", "forked")}}


def facets(index: Index, source: Source) -> dict[str, list[tuple[str, int]]]:
    """The values of each column that has a list, the most frequent first."""
    rows = index.rows("SELECT name, value, n FROM facets WHERE source = ? ORDER BY name, n DESC", (source.id,))
    return {name: [(row["value"], row["n"]) for row in rows if row["name"] == name][:_MOST_VALUES] for name in FACETS}


def totals(index: Index, source: Source) -> list[dict[str, Any]]:
    """Counts and sums of the episodes of each stage and mode; attempts that do not count, and forks, are left out."""
    query = "SELECT stage, mode, attempted, scored, solved, reward FROM totals WHERE source = ? ORDER BY first"
    return index.rows(query, (source.id,))


def num_problems(index: Index, source: Source) -> int:
    """Lines that cannot be read."""
    rows = index.rows("SELECT n FROM facets WHERE source = ? AND name = 'problem'", (source.id,))
    return rows[0]["n"] if rows else 0


def of_task(index: Index, sources: Iterable[Source], env: str, task: str, limit: int) -> list[dict[str, Any]]:
    """The episodes of one task in every source, the newest of each first.

    Args: limit: of each source.
    """
    query = (
        f"SELECT source, {_SHOWN} FROM episodes WHERE task = ? AND env = ? AND source = ? AND superseded = 0 "
        "ORDER BY line DESC LIMIT ?"
    )
    return [_shown(row) for source in sources for row in index.rows(query, (task, env, source.id, limit))]
