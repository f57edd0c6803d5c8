"""Several environments next to each other: those of a run, and the matrix of arms. Owns their look.

The numbers are `agentrl.bench.environments`'s and `agentrl.bench.generalisation`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.estimates import Estimate
from agentrl.bench.generalisation import Against, Cell, Generalisation, GeneralisationRow
from agentrl.bench.views.table import number

MODES = ("greedy", "sampled")
_KINDS = {"all": "mean of all", "trained": "mean of trained", "held_out": "mean of held out"}
_NARROWEST = 7  # characters of a column of the matrix: a mean in brackets
MARKS = "Values in [ ] are of environments that the arm was not trained on; * marks those that the main arm is not."


@dataclass(frozen=True)
class EnvironmentRow:
    """One line of the table of a run: an environment, or a mean over some.

    Attributes:
        name, note: of the line; the note says that it is held out, or which environment is the lowest.
        cells: before and after for each mode; None where it was not measured.
    """

    name: str
    note: str
    cells: Mapping[str, tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]


def environment_rows(summary: Mapping[str, Any]) -> list[EnvironmentRow]:
    """The environments of a run's summary, then means over them; empty for a run with one environment."""
    before, after = summary.get("before") or {}, summary.get("after") or {}
    shown = after.get("environments") or {}
    earlier = before.get("environments") or {}
    rows = [
        EnvironmentRow(
            name,
            "" if found["trains"] else "held out",
            {mode: (earlier.get(name, {}).get(mode), found[mode]) for mode in MODES},
        )
        for name, found in shown.items()
    ]
    over = [side.get("over_environments") or {} for side in (before, after)]
    return [*rows, *(_mean_row(kind, over) for kind in _KINDS if kind in over[1].get(MODES[0], {}))]


def _mean_row(kind: str, over: Sequence[Mapping[str, Any]]) -> EnvironmentRow:
    lowest = over[1]["sampled"][kind]["min"]
    cells = {mode: tuple(side[mode][kind]["mean"] if side else None for side in over) for mode in MODES}
    note = f"lowest, sampled: {lowest['env']} {lowest['mean']:.3f}"
    return EnvironmentRow(_KINDS[kind], note, {mode: (cell[0], cell[1]) for mode, cell in cells.items()})


def environment_lines(summary: Mapping[str, Any]) -> list[str]:
    """The table of a run's environments as lines of text; none for a run with one environment."""
    rows = environment_rows(summary)
    if not rows:
        return []
    width = max(len(row.name) for row in rows) + 2
    lines = ["", f"{'by environment':<{width}}{'greedy: before, after':<34}sampled: before, after"]
    for row in rows:
        lines.append(f"{row.name:<{width}}{_pair(row, 'greedy'):<34}{_pair(row, 'sampled'):<34}{row.note}".rstrip())
    return lines


def _pair(row: EnvironmentRow, mode: str) -> str:
    before, after = row.cells[mode]
    return f"{'-' if before is None else format(before['mean'], '.3f')}  {text_of(after)}"


def text_of(cell: Mapping[str, Any] | None) -> str:
    """A mean with its interval, of a cell of a summary."""
    if not cell or cell.get("mean") is None:
        return "-"
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


# The matrix of arms.


def render_generalisation(found: Generalisation) -> Iterator[RenderableType]:
    """For each mode the matrix and the forgetting, then the main arm against the arms of one environment."""
    for mode in MODES:
        rows = [row for row in found.rows if row.mode == mode]
        yield _matrix(found, rows, f"generalisation · {mode}: trained on rows, tested on columns", "success")
        if any(cell.forgetting for row in rows for cell in row.cells.values()):
            yield _matrix(found, rows, f"forgetting · {mode}: best earlier success minus the last", "forgetting")
        yield _means(rows, mode)
        if alone := [one for one in found.alone if one.mode == mode]:
            yield _alone(alone, mode)
    yield Text(MARKS)


def _matrix(found: Generalisation, rows: Sequence[GeneralisationRow], title: str, what: str) -> Table:
    table = _table(title, "arm")
    for name in found.environments:
        table.add_column(heading(found, name), justify="right", overflow="fold", min_width=_NARROWEST)
    for row in rows:
        cells = [shown_cell(row.cells.get(name), what) for name in found.environments]
        table.add_row(row.arm, *(cell.replace(" ", "\n") for cell in cells))
    return table


def _means(rows: Sequence[GeneralisationRow], mode: str) -> Table:
    table = _table(f"over environments · {mode}: mean, and the lowest", "arm")
    for kind in _KINDS:
        table.add_column(kind.replace("_", " "), justify="right", overflow="fold")
    for row in rows:
        table.add_row(row.arm, *(shown_mean(row, kind) for kind in _KINDS))
    return table


def _alone(alone: Sequence[Against], mode: str) -> Table:
    table = _table(f"the main arm against training on one environment alone · {mode}", "against")
    for name in ("difference", "share of success", "share of gain"):
        table.add_column(name, justify="right", overflow="fold")
    for one in alone:
        gain = "-" if one.of_gain is None else number(one.of_gain)
        table.add_row(one.arm, number(one.difference), number(one.of_success), gain)
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    return table


def heading(found: Generalisation, name: str) -> str:
    """The heading of an environment's column."""
    return f"{name}*" if name in found.held_out else name


def shown_cell(cell: Cell | None, what: str) -> str:
    """A value with half its interval after a space, in brackets where the arm was not trained on the environment."""
    estimate: Estimate | None = None if cell is None else getattr(cell, what)
    if cell is None or estimate is None:
        return "-"
    half = max(estimate.high - estimate.mean, estimate.mean - estimate.low)
    mean = f"{estimate.mean:.2f}" if cell.trained else f"[{estimate.mean:.2f}]"
    return mean + (f" ±{half:.2f}" if math.isfinite(half) else "")


def shown_mean(row: GeneralisationRow, kind: str) -> str:
    """The mean over environments of a kind, and the lowest of them."""
    spread = row.over.get(kind)
    return "-" if spread is None else f"{number(spread.mean)}, {spread.lowest} {spread.lowest_success.mean:.2f}"
