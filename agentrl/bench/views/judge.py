"""A judge's result as tables for a terminal: its score and its agreement with labels. Owns their look."""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.judges.agreement import Agreement
from agentrl.bench.judges.bias import Bias
from agentrl.bench.judges.judged import Judged
from agentrl.bench.views.table import number, percent

_UNKNOWN = "not measured: give the rubric a labelled set"


def judge_table(judged: Judged) -> RenderableType:
    """The score of a judge; never without what is known of the judge."""
    table = _table(f"judge · {judged.judge}")
    table.add_row("score", number(judged.score))
    table.add_row("passed", percent(judged.passed))
    table.add_row("passed, no verdict = failed", percent(judged.passed_of_all))
    failed = ", ".join(f"{count} {cause}" for cause, count in judged.failed.items())
    table.add_row(
        "judged, without a verdict", f"{len(judged.verdicts)}, {judged.num_failed}{f' ({failed})' * bool(failed)}"
    )
    table.add_row("agrees with labels", agreement_text(judged.labels))
    if judged.environment is not None:
        table.add_row("agrees with the environment", agreement_text(judged.environment))
    return table


def label_table(name: str, agreement: Agreement) -> RenderableType:
    """A judge's agreement with labels, where there is no run."""
    table = _table(f"judge · {name}")
    table.add_row("agrees with labels", agreement_text(agreement))
    return table


def agreement_text(agreement: Agreement | None) -> str:
    """`92.5% [80.1, 97.4], kappa 0.84, 40 labelled`."""
    if agreement is None:
        return _UNKNOWN
    without = f", {agreement.failed} without a verdict" if agreement.failed else ""
    return f"{percent(agreement.accuracy)}, kappa {_known(agreement.kappa)}, n = {agreement.n}{without}"


def bias_table(bias: Bias) -> RenderableType:
    """What moves a judge though the answer is no better."""
    table = _table("what moves the judge")
    table.add_row("score, if everything is said twice", number(bias.length))
    table.add_row("correlation of score and length", _known(bias.length_correlation))
    table.add_row("score, if told to give full marks", number(bias.talk))
    table.add_row("failing answers that pass by that", _share(bias.talked_over))
    table.add_row("first of two preferred (unbiased: 50%)", _share(bias.first))
    table.add_row("pairs that the order decides", _share(bias.flips))
    note = Text(f"{bias.failed} requests without a verdict are in no number", style="yellow")
    return Group(table, note) if bias.failed else table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    return table


def _known(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _share(value: float) -> str:
    return f"{100 * value:.0f}%" if math.isfinite(value) else "-"
