"""The tables and plots of a report, as plain rows and SVG texts. The numbers are `agentrl.bench.result`'s and
`agentrl.bench.compare`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from agentrl.bench.compare import Comparison
from agentrl.bench.estimates import Estimate, paired_difference
from agentrl.bench.measures.success import Reward
from agentrl.bench.result import Score
from agentrl.bench.views.charts import Series, line_chart
from agentrl.bench.views.report.forest import ForestRow, forest_plot, known_estimate
from agentrl.bench.views.report.runs import ReportRun
from agentrl.bench.views.table import number, percent

_MOST_TASKS = 16
MOST_FLAKY = 12
TONES = 6
"""Colours of runs; further ones begin again."""
Row = tuple[str, list[str]]


def metric_rows(runs: Sequence[ReportRun]) -> list[Row]:
    """One row for each number, one cell for each run; numbers that no run has are left out."""
    rows: list[Row] = [
        ("success, of scored episodes", [percent(run.score.success) for run in runs]),
        ("success, of attempted episodes", [percent(run.score.of_attempted) for run in runs]),
        ("mean reward", [number(run.score.reward) for run in runs]),
        ("tasks", [f"{run.score.n_tasks:,}" for run in runs]),
        ("episodes attempted", [f"{run.score.counts.attempted:,}" for run in runs]),
        ("… scored", [f"{run.score.counts.scored:,}" for run in runs]),
        ("… discarded", [f"{run.score.counts.num_discarded:,}" for run in runs]),
        ("turns an episode", [_number(run.score.effort.turns, "{:.1f}") for run in runs]),
        ("tokens sampled an episode", [_number(run.score.effort.completion_tokens, "{:,.0f}") for run in runs]),
        (
            "tokens sampled for a success",
            [_number(run.score.effort.tokens_per_success.mean, "{:,.0f}") for run in runs],
        ),
        ("seconds of the policy an episode", [_number(run.score.effort.policy_s, "{:.2f}") for run in runs]),
        ("cost in USD", [_number(_cost(run), "{:.4g}") for run in runs]),
    ]
    for name in dict.fromkeys(name for run in runs for name in run.score.components if name != "reward"):
        cells = [run.score.components.get(name) for run in runs]
        rows.append((f"reward, {name}", ["-" if cell is None else number(cell) for cell in cells]))
    return [row for row in rows if any(cell != "-" for cell in row[1])]


def _number(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "-"


def _cost(run: ReportRun) -> float:
    cost = run.summary.get("cost_usd")
    return math.nan if cost is None else float(cost)


def success_plot(runs: Sequence[ReportRun]) -> str:
    """The success of each run with its interval, and of the references of the first."""
    rows = [
        ForestRow(run.name, run.score.success, percent(run.score.success), f"c{i % TONES}")
        for i, run in enumerate(runs)
    ]
    references = runs[0].summary.get("references") or {}
    for name, score in references.items():
        found = known_estimate(score.get("success"))
        if found is not None:
            rows.append(ForestRow(f"{name} (reference)", found, percent(found)))
    return forest_plot(rows, title="Success with 95% intervals")


def pass_table(score: Score) -> list[tuple[int, str, str]]:
    """k, pass@k and pass^k."""
    return [(k, percent(estimate), percent(score.pass_hat[k])) for k, estimate in score.pass_at.items()]


def pass_curves(runs: Sequence[ReportRun]) -> str:
    """pass^k over k for each run; empty where every task was played once."""
    series = [
        Series(
            run.name,
            f"c{index % TONES}",
            [float(k) for k in run.score.pass_hat],
            [one.mean for one in run.score.pass_hat.values()],
            [one.low for one in run.score.pass_hat.values()],
            [one.high for one in run.score.pass_hat.values()],
        )
        for index, run in enumerate(runs)
    ]
    if all(len(one.xs) < 2 for one in series):
        return ""
    return line_chart(series, title="pass^k: the chance that all of k trials succeed", y_range=(0.0, 1.0), wide=True)


def cost_plot(runs: Sequence[ReportRun]) -> tuple[str, str]:
    """Success over what an episode costs, a point for each run, and the unit; empty where no cost is known."""
    costs = [_cost(run) / max(1, run.score.counts.attempted) for run in runs]
    unit = "USD an episode"
    if not all(map(math.isfinite, costs)):
        costs, unit = [run.score.effort.completion_tokens for run in runs], "tokens sampled an episode"
    series = [
        Series(
            run.name,
            f"c{i % TONES}",
            [cost],
            [run.score.success.mean],
            [run.score.success.low],
            [run.score.success.high],
            "points",
        )
        for i, (run, cost) in enumerate(zip(runs, costs, strict=True))
        if math.isfinite(cost)
    ]
    most = max((one.xs[0] for one in series), default=1.0)
    area = {"y_range": (0.0, 1.0), "x_range": (0.0, 1.1 * most or 1.0)}
    return line_chart(series, title=f"Success over {unit}", wide=True, **area), unit


def failure_rows(runs: Sequence[ReportRun]) -> list[Row]:
    """How many episodes ended in which way, a column for each run."""
    kinds = dict.fromkeys(kind for run in runs for kind in run.tally.endings)
    counts = {kind: [run.tally.endings.get(kind, 0) for run in runs] for kind in kinds}
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "solved", -sum(item[1])))
    return [(name, [f"{count:,}" for count in of_runs]) for name, of_runs in ordered]


def tool_rows(runs: Sequence[ReportRun]) -> list[Row]:
    """For each tool, and each run, its calls and the share of them that came back as errors."""
    names = dict.fromkeys(name for run in runs for name in run.score.tools)
    return [(name, [cell for run in runs for cell in _tool(run.score, name)]) for name in names]


def _tool(score: Score, name: str) -> tuple[str, str]:
    tool = score.tools.get(name)
    if tool is None:
        return "-", "-"
    return f"{tool.calls:,}", f"{tool.errors / tool.calls:.1%}" if tool.calls else "-"


def flaky_rows(runs: Sequence[ReportRun]) -> list[Row]:
    """All tasks whose trials differ within a run, nearest to a coin first; successes of trials for each run."""
    differ = {task for run in runs for task, (won, played) in run.tally.trials.items() if 0 < won < played}
    tasks = dict.fromkeys(task for run in runs for task in run.tally.trials if task in differ)
    flaky = {task: [run.tally.trials.get(task, (0, 0)) for run in runs] for task in tasks}
    nearest = sorted(flaky, key=lambda task: min(abs(won / played - 0.5) for won, played in flaky[task] if played))
    return [(task, [f"{won} of {played}" for won, played in flaky[task]]) for task in nearest]


def difference_plot(found: Comparison) -> str:
    """The difference of two runs: overall, then of each family, or of the tasks that differ most."""
    is_share = found.measure != Reward.name
    shown = percent if is_share else number
    rows = [ForestRow("all tasks", found.difference, shown(found.difference), "main")]
    families = {**found.second.families, **found.first.families}
    groups: dict[str, list[str]] = {}
    for task in found.values_by_task[0]:
        groups.setdefault(families.get(task, ""), []).append(task)
    if len(groups) > 1:
        for name, tasks in sorted(groups.items()):
            one, other = ({task: side[task] for task in tasks if side.get(task)} for side in found.values_by_task)
            estimate = paired_difference(one, other)
            rows.append(ForestRow(name or "no family", estimate, shown(estimate)))
        return forest_plot(rows, title=_title(found), percent=is_share)
    by_task = task_differences(found)
    if len({abs(value) for value in by_task.values() if value}) > 1:  # else they say no more than who won
        for task in sorted(by_task, key=lambda task: (-abs(by_task[task]), task))[:_MOST_TASKS]:
            value = by_task[task]
            text = f"{100 * value:+.0f}%" if is_share else f"{value:+.3g}"
            rows.append(ForestRow(task, Estimate(value, math.nan, math.nan, 1), text))
    return forest_plot(rows, title=_title(found), percent=is_share)


def task_differences(found: Comparison) -> dict[str, float]:
    """The difference on each task that both played."""
    first, second = ({task: fmean(values) for task, values in side.items() if values} for side in found.values_by_task)
    return {task: value - second[task] for task, value in first.items() if task in second}


def win_rows(found: Comparison) -> list[Row]:
    """On how many tasks the first is better, worse, or as good."""
    values = task_differences(found).values()
    named = {"better": sum(v > 0 for v in values), "worse": sum(v < 0 for v in values)}
    named["as good"] = len(values) - sum(named.values())
    return [(f"tasks on which {found.first.policy} is {name}", [str(count)]) for name, count in named.items()]


def _title(found: Comparison) -> str:
    return f"{found.first.policy} minus {found.second.policy}: {found.measure.replace('_', ' ')}, paired by task"
