"""Does a model with bfloat16 weights and float32 masters learn as one with float32 weights does? Shop, fresh seeds.

For each seed a tiny model copies demonstrations in float32 and in bfloat16, with the same data, and RL trains the
float32 one for STEPS steps in either type, with the default settings and no early stop. Held-out tasks are played every
EVERY steps, and at the end. Differences are paired by task and seed, with 95% intervals.
A finished cell is a line of OUT/cells/shop-SEED.jsonl and is not computed again; an interrupted run is resumed.

    python benchmarks/bfloat16.py --out runs/bfloat16 [--seeds 31,32,33] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning_intervals import Cell, Cells, difference, paired_interval
from learning_table import DEMONSTRATORS, Unit, held_out, run

from agentrl.bench.estimates import Estimate
from agentrl.rollout.store import TrajectoryStore

ENVIRONMENT = "shop"
TYPES = ("float32", "bfloat16")
STEPS, SHORT_STEPS, EVERY, TASKS = 20, 4, 4, 128
Curve = dict[str, list[int]]
"""Success on each held-out task, by step."""


def work(unit: Unit) -> None:
    """Compute the cells of a seed that are not there yet, and remove its runs at the end."""
    unit.cells.parent.mkdir(parents=True, exist_ok=True)
    done = {cell["arm"] for cell in Cells.read(unit.cells)}
    for kind in ("copied", "rl"):
        for dtype in TYPES:
            arm = f"{kind}-{dtype}"
            if arm in done:
                continue
            cell = {
                "env": unit.name,
                "seed": unit.seed,
                "arm": arm,
                **(copied if kind == "copied" else rl)(unit, dtype),
            }
            with unit.cells.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            shown = {name: value for name, value in cell.items() if name != "curve"}
            print(f"seed {unit.seed} {arm}: {Cells.said(shown)}", file=sys.stderr, flush=True)
    shutil.rmtree(unit.folder("copied-float32").parent, ignore_errors=True)


def copied(unit: Unit, dtype: str) -> dict[str, Any]:
    """The supervised start in one type."""
    stage = {"kind": "supervise", "demonstrators": DEMONSTRATORS, "num_episodes": unit.demonstrations}
    more = {"model": {"dtype": dtype}, "run": {"keep_checkpoints": 1}}
    summary = run(unit, f"copied-{dtype}", {"warm_start": stage}, more=more)
    folder = unit.folder(f"copied-{dtype}")
    losses = [json.loads(line)["supervised/nll"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = losses[-max(1, len(losses) // 10) :]
    return {"cpu_s": summary["cpu_s"], "nll": round(float(np.mean(last)), 5), **held_out(unit, folder / "model")}


def rl(unit: Unit, dtype: str) -> dict[str, Any]:
    """RL in one type, from the supervised start in float32."""
    stage = {"kind": "reinforce", "steps": SHORT_STEPS if unit.short else STEPS}
    more = {
        "env": {"eval_split": "eval"},
        "model": {"dtype": dtype},
        "run": {"evaluate_every": 2 if unit.short else EVERY, "evaluate_tasks": TASKS, "keep_best": False},
    }
    arm, start = f"rl-{dtype}", unit.folder("copied-float32") / "model"
    summary = run(unit, arm, {"rl": stage}, start=start, more=more)
    folder = unit.folder(arm)
    return {"cpu_s": summary["cpu_s"], "curve": curve(folder), **held_out(unit, folder / "model")}


def curve(folder: Path) -> Curve:
    """Success on the tasks of each evaluation between the steps."""
    found: Curve = {}
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for trajectory in store:
            if trajectory.labels.stage == "eval":
                found.setdefault(str(trajectory.labels.step), []).append(int(trajectory.success))
    return found


def points(cells: Sequence[Cell]) -> dict[str, tuple[float, float, Estimate]]:
    """Success of both types at each step that all seeds have, and the paired difference, bfloat16 minus float32."""
    curves = {dtype: {c["seed"]: c["curve"] for c in cells if c["arm"] == f"rl-{dtype}"} for dtype in TYPES}
    seeds = sorted(set.intersection(*(set(of) for of in curves.values())))
    if not seeds:
        return {}
    steps = set.intersection(*(set(of[seed]) for of in curves.values() for seed in seeds))
    made = {}
    for step in sorted(steps, key=int):
        wide, narrow = (np.asarray([curves[dtype][seed][step] for seed in seeds], float) for dtype in TYPES)
        made[step] = (float(wide.mean()), float(narrow.mean()), paired_interval((narrow - wide).tolist()))
    return made


def markdown(cells: Sequence[Cell]) -> list[str]:
    """What was copied and what was learnt at the end, and the learning curve."""
    lines = ["| | seeds | float32 | bfloat16 | bfloat16 − float32 | CPU s |", "|" + "---|" * 6]
    for kind in ("copied", "rl"):
        rows = {dtype: [cell for cell in cells if cell["arm"] == f"{kind}-{dtype}"] for dtype in TYPES}
        if not all(rows.values()):
            continue
        cpu_s = "/".join(f"{np.mean([cell['cpu_s'] for cell in rows[dtype]]):.0f}" for dtype in TYPES)
        for mode in ("greedy", "sampled"):
            means = [f"{np.mean([np.mean(cell[mode]) for cell in rows[dtype]]):.3f}" for dtype in TYPES]
            found = difference(cells, f"{kind}-bfloat16", f"{kind}-float32", mode)
            shared = "" if found is None else _shown(found)
            first = [f"{kind}, {mode}", str(len(rows["bfloat16"]))]
            lines.append("| " + " | ".join([*first, *means, shared, cpu_s]) + " |")
        if kind == "copied":
            losses = [f"{np.mean([cell['nll'] for cell in rows[dtype]]):.4f}" for dtype in TYPES]
            lines.append("| " + " | ".join(["loss at the end, nats a token", first[1], *losses, "", ""]) + " |")
    lines += ["", "| step | float32 | bfloat16 | bfloat16 − float32 |", "|---|---|---|---|"]
    for step, (wide, narrow, gap) in points(cells).items():
        lines.append(f"| {step} | {wide:.3f} | {narrow:.3f} | {_shown(gap)} |")
    return lines


def _shown(found: Estimate) -> str:
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bfloat16"))
    parser.add_argument("--seeds", default="31,32,33", help="comma-separated")
    parser.add_argument("--short", action="store_true", help="few demonstrations and steps, to try this script")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    args = parser.parse_args()
    if not args.table:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the runs
        torch.set_num_threads(1)  # of the episodes that are played here
        for seed in args.seeds.split(","):
            work(Unit(ENVIRONMENT, int(seed), args.out, args.short))
    print("\n".join(markdown(Cells.read_all(args.out / "cells"))))


if __name__ == "__main__":
    main()
