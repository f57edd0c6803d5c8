"""Does training on older tokens cost success? The quickstart's task at lags 0, 1, 2 and 4 with two samplers.

For each seed one warm start is trained as the quickstart trains it. Reinforcement learning then starts from it with the
default settings: in one process, and with two samplers at each lag. Each run chooses its weights by training tasks, and
is then tested on the 200 held-out tasks. Printed are success, its paired difference to one process with a 95% interval
over tasks and seeds, and the age of the oldest token that was trained on. Exit code 1 if a token was older than the
lag allows, if an interval does not hold 0, or if lag 0 does not give the weights of one process bit for bit.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/lags.py [--seeds 41,42,43] [--lags 0,1,2,4] [--table]

A finished cell is a line of OUT/SEED.jsonl and is not computed again; an interrupted run is resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from learning_intervals import Cell, Cells, difference
from learning_table import Unit, held_out, run, warm_start

from agentrl.bench.estimates import Estimate

ONE = "one process"
SAMPLERS = 2
KEPT = Path(__file__).resolve().parent / "results" / "lags"


@dataclass(frozen=True)
class Arm:
    """How the episodes of a run are sampled. Attributes: lag: as `playing.max_lag`; None is one process."""

    lag: int | None

    @property
    def name(self) -> str:
        return ONE if self.lag is None else f"lag {self.lag}"

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-")


def train(unit: Unit, arm: Arm) -> Cell:
    """Train one arm from the seed's warm start, or resume it, and test it. Returns: its cell."""
    warm_start(unit)
    start = unit.folder("warm") / "model"
    stage = {"kind": "reinforce", "playing": {"max_lag": arm.lag or 0}, **({"steps": 4} if unit.short else {})}
    scale = {"samplers": 0 if arm.lag is None else SAMPLERS}
    summary = run(unit, arm.folder, {"rl": stage}, start=start, more={"scale": scale})
    model = unit.folder(arm.folder) / "model"
    return {
        "env": unit.name,
        "seed": unit.seed,
        "arm": arm.name,
        "steps": summary["steps"],
        "cpu_s": round(summary["cpu_s"], 1),
        "wall_s": round(summary["wall_s"], 1),
        "oldest": oldest_token(unit.folder(arm.folder)),
        "weights": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        **held_out(unit, model),
    }


def oldest_token(folder: Path) -> int:
    """Updates between the oldest trained token of a run and the update that it was used in."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return int(max(line.get("rollout/lag_max", 0.0) for line in lines))


def work(unit: Unit, arms: Sequence[Arm], file: Path) -> None:
    """Compute the cells of a seed that are not there yet, and remove its runs at the end."""
    done = {cell["arm"] for cell in Cells.read(file)}
    for arm in arms:
        if arm.name not in done:
            cell = train(unit, arm)
            with file.open("a") as lines:
                lines.write(json.dumps(cell) + "\n")
            shown = {name: value for name, value in cell.items() if name != "weights"}
            print(f"seed {unit.seed}, {arm.name}: {Cells.said(shown)}", file=sys.stderr, flush=True)
    shutil.rmtree(unit.folder("warm").parent, ignore_errors=True)


@dataclass(frozen=True)
class Row:
    """One arm over all seeds.

    Attributes:
        cells: one of each seed.
        differences: success minus that of one process, greedy and sampled.
        same_bits: seeds whose weights are those of one process.
    """

    arm: Arm
    cells: Sequence[Cell]
    differences: dict[str, Estimate | None]
    same_bits: int

    @property
    def oldest(self) -> int:
        return max(cell["oldest"] for cell in self.cells)

    @property
    def holds(self) -> bool:
        """Whether no token was too old, no difference is beyond chance, and lag 0 is one process bit for bit."""
        within = all(one is None or one.low <= 0 <= one.high for one in self.differences.values())
        exact = self.arm.lag not in (None, 0) or self.same_bits == len(self.cells)
        return within and exact and self.oldest <= (self.arm.lag or 0)


def rows_of(cells: Sequence[Cell], arms: Sequence[Arm]) -> list[Row]:
    """The rows of the arms that have cells."""
    bits = {cell["seed"]: cell["weights"] for cell in cells if cell["arm"] == ONE}
    rows = []
    for arm in arms:
        own = [cell for cell in cells if cell["arm"] == arm.name]
        if own:
            against = {mode: difference(cells, arm.name, ONE, mode) for mode in ("greedy", "sampled")}
            same = sum(cell["weights"] == bits.get(cell["seed"]) for cell in own)
            rows.append(Row(arm, own, {} if arm.lag is None else against, same))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    heads = ["", "seeds", "greedy", "sampled", "greedy − one", "sampled − one"]
    heads += ["steps", "oldest token", "weights of one process", "CPU s", "holds"]
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *map(_shown, rows)])


def _shown(row: Row) -> str:
    success = [f"{np.mean([np.mean(cell[mode]) for cell in row.cells]):.3f}" for mode in ("greedy", "sampled")]
    apart = [_interval(row.differences.get(mode)) for mode in ("greedy", "sampled")]
    columns: list[Any] = [row.arm.name, len(row.cells), *success, *apart]
    columns += [", ".join(str(cell["steps"]) for cell in row.cells), row.oldest, f"{row.same_bits}/{len(row.cells)}"]
    columns += [", ".join(f"{cell['cpu_s']:.0f}" for cell in row.cells), "yes" if row.holds else "NO"]
    return "| " + " | ".join(map(str, columns)) + " |"


def _interval(one: Estimate | None) -> str:
    return "" if one is None else f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="41,42,43", help="comma-separated")
    parser.add_argument("--lags", default="0,1,2,4", help="comma-separated")
    parser.add_argument("--out", type=Path, default=KEPT, help="where finished cells are kept")
    parser.add_argument("--runs", type=Path, default=Path("runs/lags"), help="where runs are trained, then removed")
    parser.add_argument("--short", action="store_true", help="few demonstrations and steps, to try this script")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    given = parser.parse_args()
    arms = [Arm(None), *(Arm(int(lag)) for lag in given.lags.split(","))]
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        for seed in map(int, given.seeds.split(",")):
            work(Unit("shop", seed, given.runs, given.short), arms, given.out / f"{seed}.jsonl")
    rows = rows_of(Cells.read_all(given.out), arms)
    print(markdown(rows))
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
