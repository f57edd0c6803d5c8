"""The table of `benchmarks/numeric.py`: means over seeds, differences from continued cross-entropy and from the best
classical model, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentrl.bench.estimates import Estimate, mean_interval

CLASSICAL = ("ridge", "boosting", "forest")
HEADS = ("row", "seeds", "RMSE", "RMSE of numbers", "no number", "MAE", "R²", "Spearman", "CRPS", "coverage of 80%")
MAIN, CONTINUED = "main", "continued"
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
    """Relative differences of RMSE, paired by seed."""
    lines = ["## Differences of RMSE\n", "Paired by seed, in percent; below 0 the main arm is better.\n"]
    heads = ("data", "one answer, to continued CE", "mean of answers, to it", "mean of answers, to the best classical")
    lines += [f"| {' | '.join(heads)} |", "|---|---|---|---|"]
    singles = []
    for name, rows in found.items():
        if f"{MAIN} sample" not in rows:
            continue
        single = relative(rows, f"{MAIN} sample", f"{CONTINUED} sample")
        best = min((row for row in CLASSICAL if row in rows), key=lambda row: _mean(rows[row], "rmse").mean)
        shown = [single, relative(rows, f"{MAIN} mean", f"{CONTINUED} mean"), relative(rows, f"{MAIN} mean", best)]
        singles.append(single.mean)
        lines.append(f"| {name} | {' | '.join(map(_shown, shown[:2]))} | {_shown(shown[2])} ({best}) |")
    if singles:
        lines.append(f"| mean over data sets | {sum(singles) / len(singles):.1f} | | |")
    return lines


def relative(rows: Rows, one: str, other: str) -> Estimate:
    """(one - other) / other in percent, over the seeds that both have."""
    seeds: Sequence[int] = [seed for seed in rows[one] if seed in rows.get(other, {})]
    return mean_interval([100 * (rows[one][s]["rmse"] / rows[other][s]["rmse"] - 1) for s in seeds])
