"""The results of `gpu.sh` as one page: throughput, and success before and after learning, over seeds.

    python benchmarks/gpu_report.py --out OUT --work WORK

Reads OUT/throughput.json, and the runs in WORK that have ended; what is missing is left out. Writes OUT/gpu.json, with
the outcome of every held-out task, and OUT/gpu.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from learning_intervals import paired_interval

MODES = ("greedy", "sampled")
Outcomes = dict[str, dict[str, dict[str, float]]]
"""Arm -> mode -> task -> success, of one seed."""


def read(path: Path) -> dict[str, Any]:
    """A JSON file; {} where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def outcomes_of(summary: Mapping[str, Any], stage: str) -> dict[str, dict[str, float]]:
    tasks = summary["stages"][stage]["outcomes"]
    return {mode: {task: float(np.mean(values)) for task, values in tasks[mode].items()} for mode in MODES}


def curve_of(run: Path) -> list[tuple[int, float]]:
    """(step, sampled success) of the evaluations between the steps of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["version"], line["eval/success"]) for line in lines if line["stage"] == "eval"]


def quickstart(work: Path) -> dict[int, dict[str, Any]]:
    """What the quickstart's runs say, by seed."""
    found = {}
    for folder in sorted(work.glob("quickstart-*")):
        summary = read(folder / "summary.json")
        if summary:
            arms = {arm: outcomes_of(summary, arm) for arm in ("before", "after")}
            found[int(summary["seed"])] = {"arms": arms, "wall_s": summary["wall_s"], "curve": curve_of(folder)}
    return found


def real(work: Path) -> dict[int, dict[str, Any]]:
    """What the runs of SmolLM2 say, by seed."""
    found = {}
    for folder in sorted(work.glob("real-*")):
        summaries = {arm: read(folder / arm / "summary.json") for arm in ("warm", "rl", "further")}
        if not summaries["rl"]:
            continue
        arms = {"before": outcomes_of(summaries["warm"], "before")}
        arms |= {arm: outcomes_of(summaries[arm], "after") for arm in ("rl", "further") if summaries[arm]}
        walls = {arm: summary["wall_s"] for arm, summary in summaries.items() if summary}
        found[int(summaries["rl"]["seed"])] = {"arms": arms, "wall_s": walls, "curve": curve_of(folder / "rl")}
    return found


def learning(title: str, seeds: Mapping[int, Mapping[str, Any]], pairs: list[tuple[str, str]]) -> list[str]:
    """A table of success by arm and seed, and paired differences over tasks and seeds."""
    if not seeds:
        return []
    lines = [f"## {title}", "", "| seed | arm | greedy | sampled | wall s |", "|---|---|---|---|---|"]
    for seed, one in seeds.items():
        for arm, modes in one["arms"].items():
            wall = one["wall_s"] if isinstance(one["wall_s"], float) else one["wall_s"].get(arm, one["wall_s"]["warm"])
            cells = " | ".join(f"{np.mean(list(modes[mode].values())):.3f}" for mode in MODES)
            lines.append(f"| {seed} | {arm} | {cells} | {wall:.0f} |")
    lines.append("")
    for arm, other in pairs:
        both = [one["arms"] for one in seeds.values() if arm in one["arms"] and other in one["arms"]]
        for mode in MODES if both else ():
            tasks = sorted(set.intersection(*(set(arms[name][mode]) for arms in both for name in (arm, other))))
            differences = [[arms[arm][mode][task] - arms[other][mode][task] for task in tasks] for arms in both]
            found = paired_interval(differences)
            lines.append(
                f"- {arm} - {other}, {mode}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}], "
                f"{len(both)} seeds, {len(tasks)} tasks"
            )
    for seed, one in seeds.items():
        lines.append(f"- curve of seed {seed}: " + ", ".join(f"{step}: {value:.2f}" for step, value in one["curve"]))
    return [*lines, ""]


def throughput(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    limits = ", ".join(f"{name} {value:.1f}" for name, value in found["limits"].items())
    lines = [f"## Throughput: {found['device']}, torch {found['torch']}", "", f"Measured limits: {limits}.", ""]
    for size, rows in found.items():
        if not isinstance(rows, dict) or size == "limits":
            continue
        lines += [f"{size} ({rows['weights_m']:.1f}M weights):", ""]
        for name, row in rows.items():
            if isinstance(row, dict):
                lines.append(f"- {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    found = {
        "throughput": read(given.out / "throughput.json"),
        "quickstart": quickstart(given.work),
        "real": real(given.work),
    }
    (given.out / "gpu.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    lines = throughput(found["throughput"])
    lines += learning("Quickstart: the tiny model on Shop", found["quickstart"], [("after", "before")])
    lines += learning("SmolLM2-135M on Shop", found["real"], [("rl", "before"), ("rl", "further")])
    (given.out / "gpu.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
