"""A comparison of two benchmarks for a terminal. Owns its look; numbers come from `agentrl.bench.compare`."""

from __future__ import annotations

import math

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
    if any(record.num_discarded or record.num_asked_anew for record in (found.first, found.second)):
        counted = percent(found.of_attempted)
        parts.append(Text(f"difference in success with discarded episodes as failures: {counted}"))
    parts.append(Text(tests_in_words(found)))
    parts.extend(
        Text(f"forced: {why}, so this is no comparison of two agents", style="bold red") for why in found.forced
    )
    parts.extend(Text(f"warning: {warning}", style="bold red") for warning in found.warnings)
    parts.extend(Text(note, style="yellow") for note in found.notes)
    return Group(*parts)


def tests_in_words(found: Comparison) -> str:
    """The tests in words: p-values, what two runs of the same agent may differ by, and how many tasks would tell."""
    tests = found.tests
    said = [f"p = {_p(tests.p_value)} (paired permutation test, mid-p; exact {_p(tests.exact)})"]
    if tests.adjusted != tests.p_value:
        said.append(f"{_p(tests.adjusted)} corrected for several comparisons (Holm)")
    if tests.mcnemar is not None:
        said.append(f"{_p(tests.mcnemar)} (McNemar, exact)")
    lines = [", ".join(said)]
    floor = max(tests.noise_floor)
    if floor == 0:
        lines.append("all trials of each task agree: of the noise between two runs of one agent they say nothing")
    elif math.isfinite(floor):
        shown = f"{floor:.3g}" if found.measure == Reward.name else f"{100 * floor:.1f} points"
        lines.append(f"two runs of one agent on these tasks lie within {shown} of each other, in 95 of 100 cases")
    needed = [f"{100 * d:g} points: {n:,}" for d, n in tests.tasks_needed.items() if n is not None]
    if needed and found.measure != Reward.name:
        lines.append(f"tasks that would tell a difference (power 0.8, as many trials) of {', '.join(needed)}")
    return "\n".join(lines)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _shown(estimate: Estimate, found: Comparison) -> str:
    return number(estimate) if found.measure == Reward.name else percent(estimate)
