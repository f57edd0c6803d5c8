"""The table of `benchmarks/numeric.py`: means over seeds, differences from continued cross-entropy and from the best
classical model, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from agentrl.bench.estimates import Estimate, mean_interval

CLASSICAL = ("ridge", "boosting", "forest")
HEADS = ("row", "seeds", "RMSE", "RMSE of numbers", "no number", "MAE", "R²", "Spearman", "CRPS", "coverage of 80%")
MAIN, CONTINUED = "main", "continued"
UNSTRUCTURED = ("reports", "code_cost", "queries")
Rows = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Row -> seed -> measures, of one data set."""


def read(cells: Path) -> dict[str, Rows]:
    """The cells by data set."""
    found: dict[str, dict[str, dict[int, Mapping[str, float]]]] = {}
    for file in sorted(cells.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            cell = json.loads(line)
            found.setdefault(cell["data"], {}).setdefault(cell["row"], {})[cell["seed"]] = cell
    return found


def table(cells: Path) -> str:
    """One table for each data set, then the relative differences.

    An answer that is no number counts as one far away in all columns but `RMSE of numbers`.
    """
    found = read(cells)
    parts = ["RMSE and MAE are in standard deviations of the training numbers. Means over seeds, with 95% intervals.\n"]
    for name, rows in found.items():
        parts.append(f"## {name}\n\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
        parts += [_line(row, seeds) for row, seeds in rows.items()]
        parts.append("")
    return "\n".join([*parts, *_differences(found)])


def _line(row: str, seeds: Mapping[int, Mapping[str, float]]) -> str:
    shown = [_shown(_mean(seeds, name)) for name in ("rmse", "rmse_of_numbers", "no_number", "mae", "r2", "spearman")]
    single = row.endswith(("sample", "greedy")) or " " not in row
    distribution = row.endswith("sample")
    shown += [_shown(_mean(seeds, name)) if distribution and single else "" for name in ("crps", "coverage:0.8")]
    return f"| {row} | {len(seeds)} | {' | '.join(shown)} |"


def _mean(seeds: Mapping[int, Mapping[str, float]], name: str) -> Estimate | None:
    values = [cell[name] for cell in seeds.values() if cell.get(name) is not None]
    return mean_interval(values) if values else None


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    half = estimate.high - estimate.mean
    return f"{estimate.mean:.3f}" + (f" ± {half:.3f}" if half < float("inf") else "")


def _differences(found: Mapping[str, Rows]) -> list[str]:
    """Relative differences of RMSE, paired by seed, and which of the wanted figures they meet."""
    lines = ["## Differences of RMSE\n", "Of the main arm, paired by seed, in percent; below 0 it is better.\n"]
    lines += [f"| {' | '.join(['data', 'seeds', *_COMPARED, 'mean of answers, to the best classical'])} |"]
    lines += ["|---|---|" + "---|" * (len(_COMPARED) + 1)]
    differences = {}
    for name, rows in found.items():
        if f"{MAIN} sample" not in rows or f"{CONTINUED} sample" not in rows:
            continue
        best = min((row for row in CLASSICAL if row in rows), key=lambda row: _mean(rows[row], "rmse").mean)
        pairs = [*_COMPARED.values(), (f"{MAIN} mean", best, "rmse")]
        differences[name] = [relative(rows, *pair) for pair in pairs]
        shown = " | ".join(map(_shown_percent, differences[name]))
        lines.append(f"| {name} | {len(rows[f'{MAIN} sample'])} | {shown} ({best}) |")
    if not differences:
        return lines
    means = [fmean(own[i].mean for own in differences.values()) for i in range(len(_COMPARED))]
    lines.append(f"| mean over data sets | | {' | '.join(f'{mean:.1f}' for mean in means)} | |")
    return [*lines, "", *_wanted({name: [e.mean for e in own] for name, own in differences.items()})]


_COMPARED = {
    "one answer, to continued CE": (f"{MAIN} sample", f"{CONTINUED} sample", "rmse"),
    "the same, numbers alone": (f"{MAIN} sample", f"{CONTINUED} sample", "rmse_of_numbers"),
    "one answer, to CE alone": (f"{MAIN} sample", "cross_entropy sample", "rmse"),
    "the same, numbers alone ": (f"{MAIN} sample", "cross_entropy sample", "rmse_of_numbers"),
    "mean of answers, to continued CE": (f"{MAIN} mean", f"{CONTINUED} mean", "rmse"),
    "mean of answers, to CE alone": (f"{MAIN} mean", "cross_entropy mean", "rmse"),
}


def _shown_percent(estimate: Estimate) -> str:
    half = estimate.high - estimate.mean
    return f"{estimate.mean:.1f}" + (f" ± {half:.1f}" if half < float("inf") else "")


def _wanted(differences: Mapping[str, Sequence[float]]) -> list[str]:
    """What was wanted of the figures, and whether they are so."""
    single, classical = ({name: own[i] for name, own in differences.items()} for i in (0, -1))
    texts = [name for name in classical if name in UNSTRUCTURED]
    near = [name for name, value in classical.items() if name not in UNSTRUCTURED and value <= 3]
    tables = len(classical) - len(texts)
    mean, below = fmean(single.values()), sum(value < 0 for value in single.values())
    ahead = sum(classical[name] < 0 for name in texts)
    checks = {
        f"one answer at least 10% below continued cross-entropy on average: {mean:.1f}%": mean <= -10,
        f"and below it on each data set: on {below} of {len(single)}": below == len(single),
        f"the mean of answers within 3% of the best classical model on half the tables: on {len(near)} of {tables}": (
            2 * len(near) >= tables
        ),
        f"and ahead of it on text and after queries: on {ahead} of {len(texts)}": ahead == len(texts),
    }
    return ["## What was wanted\n", *(f"- {what}: **{'met' if met else 'not met'}**" for what, met in checks.items())]


def relative(rows: Rows, one: str, other: str, measure: str = "rmse") -> Estimate:
    """(one - other) / other in percent, over the seeds that both have."""
    seeds: Sequence[int] = [seed for seed in rows.get(one, {}) if seed in rows.get(other, {})]
    return mean_interval([100 * (rows[one][s][measure] / rows[other][s][measure] - 1) for s in seeds])
