"""A suite's result, and two suites compared, as tables for a terminal. Owns their look."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.suites.comparison import SuiteComparison
from agentrl.bench.suites.suite import SuiteResult
from agentrl.bench.views.table import percent


def render_suite(result: SuiteResult) -> RenderableType:
    """Success in each environment, their weighted mean and the lowest; print it with a rich console."""
    table = _table(f"{result.policy} · {len(result.weights)} environments", "environment", "weight", "tasks", "success")
    for name in ("of attempted", "null", "oracle", "discarded"):
        table.add_column(name, justify="right")
    for name, weight in result.weights.items():
        table.add_row(*_row(name, weight, result))
    if result.mean is not None:
        table.add_row("weighted mean", "", "", percent(result.mean), style="bold")
    parts: list[RenderableType] = [table]
    lowest = result.lowest
    if lowest is not None and len(result.results) > 1:
        parts.append(Text(f"lowest: {lowest[0]}, {percent(lowest[1])}"))
    if result.cost_usd is not None:
        parts.append(Text(f"cost: {result.cost_usd:.4g} USD"))
    parts.extend(
        Text(f"{name} could not be played: {error}", style="bold red") for name, error in result.errors.items()
    )
    parts.extend(Text(f"warning: {warning}", style="bold red") for warning in result.warnings)
    return Group(*parts)


def _row(name: str, weight: float, result: SuiteResult) -> tuple[str, ...]:
    found = result.results.get(name)
    if found is None:
        return name, f"{weight:g}", "", "not played"
    references = [found.references.get(kind) for kind in ("null", "oracle")]
    shown = ["" if score is None else f"{score.success.mean:.1%}" for score in references]
    score = found.score
    return (
        *(name, f"{weight:g}", str(score.n_tasks), percent(score.success), percent(score.of_attempted)),
        *(*shown, str(score.n_faults)),
    )


def render_suites(found: SuiteComparison) -> RenderableType:
    """The differences by environment and their weighted mean; print it with a rich console."""
    one = next(iter(found.envs.values()))
    title = f"{one.first.policy} minus {one.second.policy} · {one.measure.replace('_', ' ')}"
    table = _table(title, "environment", "tasks", "first", "second", "difference")
    table.add_column("p (Holm)", justify="right")
    for name, each in found.envs.items():
        table.add_row(
            *(name, str(each.difference.n), percent(each.values[0]), percent(each.values[1])),
            *(percent(each.difference), f"{found.adjusted[name]:.3g}"),
        )
    table.add_row("weighted mean", "", "", "", percent(found.mean), style="bold")
    table.caption, table.caption_justify = "95% intervals over tasks; differences are taken task by task", "left"
    parts: list[RenderableType] = [table]
    if found.alone:
        parts.append(Text(f"only one of them has: {', '.join(found.alone)}", style="yellow"))
    parts.extend(Text(f"forced: {why}", style="bold red") for why in found.forced)
    parts.extend(Text(f"warning: {warning}", style="bold red") for warning in found.warnings)
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column == "environment" else "right", overflow="fold")
    return table
