"""Training runs next to each other for a terminal. Owns their look; numbers come from `agentrl.bench.training_runs`."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.estimates import Estimate
from agentrl.bench.training_runs import MODES, Row, RunsComparison
from agentrl.bench.views.table import number


def render_runs(found: RunsComparison) -> RenderableType:
    """A table for each mode, and the notes; print them with a rich console."""
    parts: list[RenderableType] = [_table(found, mode) for mode in MODES]
    parts.append(
        Text("95% intervals over tasks and seeds; differences are taken task by task, success on held-out tasks")
    )
    parts.extend(Text(f"warning: {warning}", style="bold red") for warning in found.warnings)
    parts.extend(Text(said) for row in found.rows if (said := _of_attempted(row)))
    parts.extend(Text(note, style="yellow") for note in found.notes)
    return Group(*parts)


def _of_attempted(row: Row) -> str:
    """The differences of a row with discarded episodes as failures; empty where there are none."""
    pairs = {"after - before": row.change_attempted, "minus the first": row.against_first_attempted}
    shown = [f"{name} {number(estimate)}" for name, estimate in pairs.items() if estimate is not None]
    return f"{_name(row)}, {row.mode}, with discarded episodes as failures: {'; '.join(shown)}" if shown else ""


def _table(found: RunsComparison, mode: str) -> Table:
    rows = [row for row in found.rows if row.mode == mode]
    table = Table(
        title=f"{found.env} · {mode} · {found.n_tasks} tasks of every run",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("setting", overflow="fold", min_width=12)
    for name in ("seeds", "before", "after", "after - before", *(["minus the first"] if len(rows) > 1 else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [_shown(row.before), _shown(row.after), _shown(row.change)]
        cells += [_shown(row.against_first)] if len(rows) > 1 else []
        table.add_row(_name(row), ",".join(map(str, row.setting.seeds)), *cells)
    return table


def _name(row: Row) -> str:
    """What sets the setting apart; the folder of its runs where nothing does."""
    differs = " ".join(f"{key}={value}" for key, value in row.setting.differs.items())
    return differs or row.setting.name


def _shown(estimate: Estimate | None) -> str:
    return "-" if estimate is None else number(estimate)
