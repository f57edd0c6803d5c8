"""Arms of a training file next to each other, for a terminal and as files. Owns their look; the numbers are
`agentrl.bench.arms`'s.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.arms import ArmRow, ArmsTable
from agentrl.bench.estimates import Estimate
from agentrl.bench.training_runs import MODES
from agentrl.bench.views import environments
from agentrl.bench.views.page_text import for_page
from agentrl.bench.views.reliability import reliability_diagram
from agentrl.bench.views.table import number
from agentrl.errors import StoreError
from agentrl.rollout.store import write_summary


def render_arms(found: ArmsTable) -> RenderableType:
    """For each mode a table of the measures and one of the differences from the main arm; then costs and notes."""
    parts: list[RenderableType] = []
    for mode in MODES:
        rows = [row for row in found.rows if row.mode == mode]
        parts.append(_table(found, rows, f"{found.stage} · {mode}", "values"))
        if any(row.differences for row in rows):
            parts.append(_table(found, rows[1:], f"{found.stage} · {mode} · minus {rows[0].arm}", "differences"))
    if found.generalisation is not None:
        parts.extend(environments.render_generalisation(found.generalisation))
    parts.append(_costs([row for row in found.rows if row.mode == MODES[0]]))
    parts.append(Text("95% intervals over tasks and seeds; differences are taken on the same tasks and seeds"))
    parts.extend(Text(note, style="yellow") for note in found.notes)
    return Group(*parts)


def _table(found: ArmsTable, rows: list[ArmRow], title: str, what: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold", min_width=8)
    for name, unit in found.units.items():
        table.add_column(name if unit == "share" else f"{name} ({unit})", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.arm, *(_shown(getattr(row, what).get(name)) for name in found.units))
    return table


def _shown(estimate: Estimate | None) -> str:
    return "-" if estimate is None else number(estimate)


def _diagram(row: ArmRow) -> str:
    return reliability_diagram(row.reliability, title=f"{row.arm}, {row.mode}: accuracy over confidence")


def _costs(rows: list[ArmRow]) -> Table:
    table = Table(title="cost of one run", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold", min_width=8)
    for name in ("seeds", "CPU seconds", "sampled tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("about", overflow="fold")
    for row in rows:
        seeds = ",".join(map(str, row.seeds))
        table.add_row(row.arm, seeds, f"{row.cpu_s:.0f}", f"{row.sampled_tokens:,.0f}", row.about)
    return table


def write_arms(out: Path, found: ArmsTable) -> None:
    """Write arms.json and arms.html, in one step each, into the folder of the arms. Raises: StoreError."""
    write_summary(out / "arms.json", found.to_json())
    pages = Environment(
        loader=PackageLoader("agentrl.bench.views", "."), autoescape=True, finalize=for_page, undefined=StrictUndefined
    )
    page = pages.get_template("arms.html.jinja").render(
        name=out.name,
        found=found,
        modes=MODES,
        rows={m: [r for r in found.rows if r.mode == m] for m in MODES},
        shown=_shown,
        diagram=_diagram,
        views=environments,
    )
    path, partial = out / "arms.html", out / ".arms.html.partial"
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error}; free space, and give the same command again") from error
