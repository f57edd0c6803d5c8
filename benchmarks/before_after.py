"""Whole commands at an earlier revision and now: CPU seconds and peak memory, in turns, one torch thread each.

    python benchmarks/before_after.py REVISION [--rounds 3] [--only bench,train] [--out runs/before-after] [--table]

The earlier tree is checked out into a folder of its own and runs with this environment's packages. A model that the
earlier tree has trained is what both sample in the row `sample`. Finished cells are kept and are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("before", "after")
SHORT = ("--set", "stages.warm_start.num_episodes=2000", "--set", "stages.rl.steps=8")
ROWS = {
    "import": "python -c 'import agentrl'",
    "bench": "200 tasks of Shop, 5 trials, the oracle and doing nothing",
    "replay": "the episodes of `bench` executed again",
    "train": "the quickstart with 2,000 demonstrations and 8 steps",
    "sample": "100 tasks of Shop by the model that `train` made",
    "report": "the page of the training run",
}


@dataclass(frozen=True)
class Trees:
    """The two trees, and where their commands write."""

    before: Path
    out: Path

    def tree(self, side: str) -> Path:
        return self.before if side == "before" else ROOT

    def command(self, row: str, side: str) -> list[str]:
        """The command of a row."""
        made = self.out / side
        agentrl = [sys.executable, "-m", "agentrl"]
        config = str(self.tree(side) / "quickstart.toml")
        return {
            "import": [sys.executable, "-c", "import agentrl"],
            "bench": [
                *agentrl,
                "bench",
                "agentrl/Shop-v0",
                "--tasks",
                "200",
                "--trials",
                "5",
                "--out",
                f"{made}/bench",
            ],
            "replay": [*agentrl, "replay", f"{made}/bench"],
            "train": [*agentrl, "train", config, *SHORT, "--out", f"{made}/train"],
            "sample": [
                *(*agentrl, "bench", "agentrl/Shop-v0", "--policy", f"local:{self.out}/before/train/model"),
                *("--tasks", "100", "--no-references", "--out", f"{made}/sample"),
            ],
            "report": [*agentrl, "report", f"{made}/train"],
        }[row]

    def measure(self, row: str, side: str) -> dict[str, float]:
        """Run a row's command. Raises: RuntimeError with the end of what it said."""
        made = self.out / side
        if row in ("bench", "train", "sample"):
            shutil.rmtree(made / row, ignore_errors=True)
        made.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.tree(side))}
        with (made / f"{row}.log").open("w+") as said:
            process = subprocess.Popen(self.command(row, side), cwd=made, env=env, stdout=said, stderr=said)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise RuntimeError(f"{row}, {side}: exit code {process.returncode}: {said.read()[-400:]}")
        return {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def table(cells: Path) -> str:
    """Medians of each row, and their ratios."""
    lines = [
        "| command | rounds | CPU s before | now | ratio | peak MB before | now |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, about in ROWS.items():
        found = {
            side: [json.loads(file.read_text()) for file in sorted(cells.glob(f"{row}-{side}-*"))] for side in SIDES
        }
        if not all(found.values()):
            continue
        seconds, peaks = (
            [statistics.median(cell[name] for cell in found[side]) for side in SIDES] for name in ("cpu_s", "peak_mb")
        )
        lines.append(
            f"| {row}: {about} | {len(found['after'])} | {seconds[0]:.2f} | {seconds[1]:.2f} | "
            f"{seconds[1] / seconds[0]:.2f} | {peaks[0]:.0f} | {peaks[1]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/before-after"))
    parser.add_argument("--table", action="store_true", help="print what is there, and measure nothing")
    given = parser.parse_args()
    out = given.out.resolve()
    tree, cells = out / "tree", out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if not given.table:
        if not tree.exists():
            subprocess.run(["git", "worktree", "add", "--detach", str(tree), given.revision], cwd=ROOT, check=True)
        trees = Trees(tree, out)
        for number in range(given.rounds):
            for row in given.only.split(","):
                for side in SIDES if number % 2 else SIDES[::-1]:
                    file = cells / f"{row}-{side}-{number}.json"
                    if not file.exists():
                        file.write_text(json.dumps(trees.measure(row, side)) + "\n")
                        print(f"{file.stem}: {file.read_text().strip()}", flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
