"""Does an agent learn? The quickstart, or another configuration, over several seeds, on held-out tasks.

Trains each seed from nothing with one fixed setting, and prints success before and after RL, greedy and
sampled, with intervals: over tasks for each seed, over seeds (Student's t) in the last row. A finished
seed in the output folder is not trained again; an interrupted one is resumed.

    python benchmarks/learning.py --seeds 0,1,2 --out runs/learning
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentrl.bench.estimates import mean_interval

CELLS = [(when, mode) for when in ("before", "after") for mode in ("greedy", "sampled")]


def run_seed(config: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one seed in a process of its own. Returns: its summary."""
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "agentrl", "train", config, "--seed", str(seed), *sets, "--continue"]
    subprocess.run([*command, "--out", str(out / f"seed-{seed}")], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / f"seed-{seed}" / "summary.json").read_text())


def table(summaries: list[dict[str, Any]]) -> list[str]:
    header = ["seed", *(f"{mode} {when}" for when, mode in CELLS), "wall s", "CPU s"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for summary in summaries:
        cells = [_cell(summary[when][mode]) for when, mode in CELLS]
        lines.append(
            f"| {summary['seed']} | " + " | ".join(cells) + f" | {summary['wall_s']:.0f} | {summary['cpu_s']:.0f} |"
        )
    if len(summaries) > 1:
        cells = []
        for when, mode in CELLS:
            over_seeds = mean_interval([summary[when][mode]["mean"] for summary in summaries])
            cells.append(f"{over_seeds.mean:.3f} [{over_seeds.low:.3f}, {over_seeds.high:.3f}]")
        lines.append(f"| {len(summaries)} seeds | " + " | ".join(cells) + " | | |")
    return lines


def _cell(cell: dict[str, Any]) -> str:
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart.toml")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    summaries = [run_seed(args.config, int(seed), args.out, args.overrides) for seed in args.seeds.split(",")]
    if args.json:
        print(json.dumps(summaries, indent=1))
    else:
        print("\n".join(table(summaries)))


if __name__ == "__main__":
    main()
