"""`report.html` of a training run: one file that opens anywhere, without network.

Owns what the report says, read from the run folder alone; drawing is `charts`, layout the template.
An unfinished or partly missing run still gives a report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader

from agentrl.bench.verdicts import CHANGES, choices, said_of
from agentrl.bench.views.charts import Series, line_chart, short_number
from agentrl.bench.views.environments import environment_rows, text_of
from agentrl.bench.views.page_text import for_page
from agentrl.bench.views.run_tally import EVALUATION, Tally
from agentrl.bench.views.table import percent
from agentrl.errors import StoreError

Metrics = Mapping[str, Any]
_WINDOW_STEPS = 5
# Two-sided 95% quantiles of Student's t for 2 to 4 degrees of freedom: a window has 3 to 5 steps.
_T95 = (4.303, 3.182, 2.776)


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder.

    Args:
        run_dir: holds metrics.jsonl, and as far as they exist trajectories.jsonl, summary.json, config.toml.
    Returns: the report's path.
    Raises: StoreError if there is no metrics.jsonl, or a file cannot be read or written.
    """
    folder = Path(run_dir)
    metrics = read_metrics(folder / "metrics.jsonl")
    summary = _read_summary(folder / "summary.json")
    tally = Tally.of(folder / "trajectories.jsonl")
    config = folder / "config.toml"
    environment = Environment(
        loader=PackageLoader("agentrl.bench.views", "."), autoescape=True, finalize=for_page, trim_blocks=True
    )
    environment.filters["short"] = short_number
    html = environment.get_template("run_report.html.jinja").render(
        name=folder.resolve().name,
        summary=summary,
        facts=_facts(summary, metrics),
        table=_table(summary, tally),
        environments=environment_rows(summary),
        cell=text_of,
        verdicts=said_of(metrics, summary),
        choices=choices(summary),
        made_with=_made_with(summary),
        charts=main_charts(metrics),
        small=small_charts(metrics),
        transcripts=tally.transcripts(),
        tools=tally.tool_rows(),
        episodes=[played.row() for played in tally.played.values()],
        shares=_time_shares(metrics, summary),
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        warnings=_warnings(metrics, summary, tally),
    )
    path, partial = folder / "report.html", folder / ".report.html.partial"
    try:
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")  # a model can say half a character
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}; free space, then write the report again") from error
    return path


# Reading.


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a metrics.jsonl; a torn last line is left out. Raises: StoreError naming a line that is not JSON."""
    if not path.exists():
        raise StoreError(f"there is no {path}: give the folder of a training run")
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a name may hold U+2028
    rows: list[Metrics] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise StoreError(f"{path}, line {number}: not JSON. Delete that line to read the others") from None
    return rows


def _read_summary(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        summary: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path}: not JSON: {error}") from None
    return summary


# Numbers.


def _column(metrics: Sequence[Metrics], name: str, stage: str | None = None) -> tuple[list[float], list[float]]:
    """Places and finite values of one metric: over the updates of all stages, or over the steps of one stage."""
    place = "version" if stage is None else "step"
    rows = [(row[place], row.get(name)) for row in metrics if stage in (None, row.get("stage"))]
    kept = [(step, value) for step, value in rows if isinstance(value, (int, float)) and math.isfinite(value)]
    return [float(step) for step, _ in kept], [float(value) for _, value in kept]


def smoothed(values: Sequence[float], window: int = _WINDOW_STEPS) -> tuple[list[float], list[float], list[float]]:
    """Mean over the last `window` steps, with a 95% t-interval of that mean.

    Returns: means, lows, highs; a window of one or two values has no interval worth drawing (nan).
    """
    means, lows, highs = [], [], []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - window) : end]
        mean = fmean(part)
        half = _T95[len(part) - 3] * stdev(part) / math.sqrt(len(part)) if len(part) > 2 else math.nan
        means.append(mean)
        lows.append(mean - half)
        highs.append(mean + half)
    return means, lows, highs


def main_charts(metrics: Sequence[Metrics]) -> list[dict[str, str]]:
    """Success and reward over the updates, in training and on held-out tasks."""
    success = _curve(metrics, "rollout/success", "eval/success", (0.0, 1.0), "Success rate")
    reward = _curve(metrics, "rollout/reward_mean", "eval/reward_mean", None, "Mean reward")
    return [chart for chart in (success, reward) if chart["svg"]]


def _curve(
    metrics: Sequence[Metrics], train: str, evaluation: str, y_range: tuple[float, float] | None, title: str
) -> dict[str, str]:
    steps, values = _column(metrics, train)
    means, lows, highs = smoothed(values)
    if y_range is not None:
        # In this order a missing bound (nan) stays missing: max and min keep their first argument then.
        lows, highs = [max(low, y_range[0]) for low in lows], [min(high, y_range[1]) for high in highs]
    series = [Series(f"training, {_WINDOW_STEPS}-step mean", "train", steps, means, lows, highs)]
    steps, values = _column(metrics, evaluation)
    bounds = "eval/" if evaluation == "eval/success" else f"{evaluation}_"
    low_values, high_values = (_bounds(metrics, f"{bounds}ci95_{side}", steps) for side in ("low", "high"))
    series.append(Series("held-out tasks", "eval", steps, values, low_values, high_values, "points"))
    return {"title": title, "svg": line_chart(series, title=title, y_range=y_range, wide=True)}


def _bounds(metrics: Sequence[Metrics], name: str, steps: Sequence[float]) -> list[float]:
    """A bound at each step; nan where it is not known. Empty if it is known nowhere."""
    known = dict(zip(*_column(metrics, name), strict=True))
    return [known.get(step, math.nan) for step in steps] if known else []


_SHOWN_ABOVE = {"rollout/success", "rollout/reward_mean", "eval/success", "eval/reward_mean"}


def small_charts(metrics: Sequence[Metrics]) -> list[dict[str, str]]:
    """One small chart per remaining metric of each stage, in the order of the stages."""
    names = dict.fromkeys((str(row.get("stage")), name) for row in metrics for name in row if "/" in name)
    charts = []
    for stage, name in names:
        if name in _SHOWN_ABOVE or "ci95" in name or stage == EVALUATION or name.startswith("share/"):
            continue
        steps, values = _column(metrics, name, stage)
        if len(values) > 1 and (max(values) > min(values) or values[0] != 0):
            tone = "plain" if (stage, "loss/supervised") in names else "train"
            svg = line_chart([Series(name, tone, steps, values)], title=name)
            charts.append({"title": f"{stage.replace('_', ' ')}: {name}", "svg": svg})
    return charts


def _time_shares(metrics: Sequence[Metrics], summary: Metrics) -> list[dict[str, Any]]:
    """Wall seconds by what they were spent on; the rest is set-up, demonstrations and bookkeeping."""
    seconds: dict[str, float] = {}
    supervised = [float(row["time_s"]) for row in metrics if "loss/supervised" in row]
    if supervised:
        seconds["supervised"] = max(supervised)
    for row in metrics:
        for name, value in row.items():
            if name.startswith("time/") and name.endswith("_s"):
                label = name.removeprefix("time/").removesuffix("_s")
                seconds[label] = seconds.get(label, 0.0) + float(value)
    last = max((float(row["time_s"]) for row in metrics), default=0.0)
    total = max(float(summary.get("wall_s") or 0.0), last, sum(seconds.values()))
    seconds["other"] = total - sum(seconds.values())
    if total <= 0:
        return []
    return [{"name": n, "seconds": s, "share": s / total} for n, s in seconds.items() if s / total >= 0.001]


def _table(summary: Metrics, tally: Tally | None = None) -> list[dict[str, Any]]:
    """Success before and after, by mode, each with the rate that counts discarded episodes as failures if known."""
    before, after = summary.get("before") or {}, summary.get("after") or {}
    rows = []
    for mode, label in (("greedy", "greedy"), ("sampled", "sampled, temperature 1")):
        cells = [side.get(mode) for side in (before, after)]
        if any(cells):
            row: dict[str, Any] = {"label": label, "before": cells[0], "after": cells[1], "of_attempted": []}
            for side in ("before", "after"):
                played = tally.played.get((side, mode)) if tally is not None else None
                if played is not None:
                    row["of_attempted"].append(f"{side} {percent(played.of_attempted)}")
            rows.append(row)
    return rows


def _facts(summary: Metrics, metrics: Sequence[Metrics]) -> list[tuple[str, str]]:
    tables = [summary.get("after") or {}, summary.get("before") or {}]
    n_tasks = next((table["n_tasks"] for table in tables if "n_tasks" in table), None)
    steps = max((row["version"] for row in metrics), default=0)
    several = summary.get("environments") or {}
    held_out = [name for name, found in several.items() if not found["trains"]]
    facts = [
        ("environment", None if several else (summary.get("env") or {}).get("id")),
        ("trained on", ", ".join(name for name in several if name not in held_out) or None),
        ("held out", ", ".join(held_out) or None),
        ("seed", summary.get("seed")),
        ("updates", steps),
        ("held-out tasks", n_tasks),
        ("wall time", _duration(summary.get("wall_s"))),
        ("CPU time", _duration(summary.get("cpu_s"))),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _made_with(summary: Metrics) -> list[tuple[str, str]]:
    """Versions, machine and cost, a row each; empty for a run that is not finished."""
    machine, cost = summary.get("machine") or {}, summary.get("cost") or {}
    cpu = {name: f"{seconds:,.0f} s" for name, seconds in (cost.get("cpu_s_by_stage") or {}).items()}
    rows = [
        ("begun", summary.get("began")),
        ("environment", (summary.get("env") or {}).get("version")),
        ("packages", _listed(summary.get("packages") or {})),
        ("machine", _listed({name: value for name, value in machine.items() if value is not None})),
        ("CPU time by stage", _listed(cpu)),
        ("tokens", _listed({name: f"{count:,}" for name, count in (cost.get("tokens") or {}).items()})),
    ]
    return [(name, str(value)) for name, value in rows if value] if summary else []


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# What a reader should not overlook.


def _warnings(metrics: Sequence[Metrics], summary: Metrics, tally: Tally) -> list[str]:
    warnings = []
    if not summary:
        warnings.append("The run is not finished: there is no summary yet. Go on with `agentrl train --resume`.")
    warnings += _fault_warnings(tally)
    said = said_of(metrics, summary)
    if not any(one["name"] in CHANGES for one in said):
        warnings += _interval_warnings(summary)
    # A bound that is not known is infinite: that is no failure of the run.
    found = {name for row in metrics for name, value in row.items() if _is_bad(value)}
    bad = sorted(name for name in found if "ci95" not in name)
    if bad:
        warnings.append(f"Not finite at some step: {', '.join(bad)}.")
    _, truncated = _column(metrics, "rollout/truncated")
    if truncated and fmean(truncated[-10:]) > 0.2:
        warnings.append(
            f"{fmean(truncated[-10:]):.0%} of the last episodes were cut off by a limit: raise max_turns or "
            "sampling.max_tokens, or look at the transcripts."
        )
    _, equal = _column(metrics, "rollout/groups_equal")
    if equal and fmean(equal[-10:]) > 0.8 and all(one["name"] in CHANGES for one in said):
        warnings.append(
            f"{fmean(equal[-10:]):.0%} of the last groups had equal rewards and taught nothing: the tasks are "
            "solved, or too hard; larger groups or dynamic sampling help."
        )
    return warnings


def _is_bad(value: Any) -> bool:
    """Whether a metric is not finite; the log has null for that."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _fault_warnings(tally: Tally) -> list[str]:
    every = [(played.name, played.counts) for played in tally.played.values()]
    warnings = [f"{name}: {counts.warning}." for name, counts in every if counts.warning]
    faults = sum(counts.num_discarded for _, counts in every)
    if faults:
        episodes = sum(counts.attempted for _, counts in every)
        cause, times = max(tally.causes.items(), key=lambda item: item[1])
        warnings.append(f"{faults} of {episodes} episodes were discarded; most often ({times}x): {cause}")
    return warnings


def _interval_warnings(summary: Metrics) -> list[str]:
    warnings = []
    for row in _table(summary):
        before, after = row["before"], row["after"]
        if before and after and None not in (*before["ci95"], *after["ci95"]) and after["ci95"][0] <= before["ci95"][1]:
            warnings.append(f"The intervals before and after overlap ({row['label']}): this run shows no clear gain.")
    return warnings
