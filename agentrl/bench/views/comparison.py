"""A comparison of two benchmarks for a terminal. Owns its look; numbers come from `agentrl.bench.compare`."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.compare import Comparison
from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.success import Reward
from agentrl.bench.views.table import number, percent


def render_comparison(found: Comparison) -> RenderableType:
    """The table, notes and warnings of a comparison; print them with a rich console."""
    title = f"{found.first.env} · {found.first.split} · {found.difference.n} tasks that both played"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", overflow="fold", min_width=8)
    for name in (found.measure.replace("_", " "), "attempted", "discarded"):
        table.add_column(name, justify="right", no_wrap=True)
    for record, value in zip((found.first, found.second), found.values, strict=True):
        table.add_row(record.policy, _shown(value, found), str(record.num_attempted), str(record.num_discarded))
    table.add_row("difference", _shown(found.difference, found), style="bold")
    table.caption, table.caption_justify = "95% intervals over tasks; the difference is taken task by task", "left"
    parts: list[RenderableType] = [table]
    if found.first.num_discarded or found.second.num_discarded:
        counted = percent(found.of_attempted)
        parts.append(Text(f"difference in success with discarded episodes as failures: {counted}"))
    parts.extend(Text(f"warning: {warning}", style="bold red") for warning in found.warnings)
    parts.extend(Text(note, style="yellow") for note in found.notes)
    return Group(*parts)


def _shown(estimate: Estimate, found: Comparison) -> str:
    return number(estimate) if found.measure == Reward.name else percent(estimate)
