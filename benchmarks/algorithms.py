"""Which algorithm learns most from the same number of sampled tokens? Two environments, shared warm starts, paired.

For each environment and seed a tiny model copies demonstrations (a quarter are the oracle's, the others show a wrong
habit). From its end every algorithm trains with the settings that its name stands for, the same batches and a constant
rate, until it has sampled its tokens: greedy baselines and the continuations of forks count. No run is evaluated or
stopped in between. Then held-out tasks are played. Differences to GRPO are paired by task and seed.
A finished cell is a line of OUT/cells/ENVIRONMENT-SEED.jsonl and is not computed again; an interrupted run is resumed.
An algorithm that this version does not have is left out, and computed by the same command of a version that has it.

    python benchmarks/algorithms.py --out runs/algorithms [--only lake-1] [--arms grpo,ppo] [--seeds 21] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning_intervals import Cell, Cells, difference
from learning_table import DEMONSTRATORS, Unit, held_out, run

from agentrl.bench.estimates import Estimate, mean_interval
from agentrl.training.algorithms import ALGORITHMS, stage_of
from agentrl.training.stages.base import STAGES

# Sampled tokens of a run: so few that no algorithm solves the environment.
TOKENS = {"shop": 24_000, "lake-1": 8_000}
ARMS = ("grpo", "dr_grpo", "rloo", "gspo", "cispo", "ppo", "gigpo", "hgpo", "forked", "dpo", "remax")
BASELINE, WARM = "grpo", "warm"
SHORT_TOKENS, MOST_STEPS = 4_000, 1_000
PROMPTS_PER_STEP = 4
NOT_RECORDED = {"evaluate_every": 0, "record_trajectories": False, "keep_checkpoints": 1}


def work(unit: Unit, arms: Sequence[str]) -> None:
    """Compute the cells of a unit that are not there yet. The warm start stays, for arms that come later."""
    unit.cells.parent.mkdir(parents=True, exist_ok=True)
    done = {cell["arm"] for cell in Cells.read(unit.cells)}
    for arm in (WARM, *arms):
        if arm in done:
            continue
        if arm != WARM and arm not in ALGORITHMS.names:
            print(f"{arm} is left out: this version has no algorithm of that name", file=sys.stderr, flush=True)
            continue
        cell = {"env": unit.name, "seed": unit.seed, "arm": arm, **(warm(unit) if arm == WARM else trained(unit, arm))}
        with unit.cells.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        shown = {name: value for name, value in cell.items() if name != "curve"}
        print(f"{unit.name} seed {unit.seed} {arm}: {Cells.said(shown)}", file=sys.stderr, flush=True)


def warm(unit: Unit) -> dict[str, Any]:
    """The warm start that every arm begins from."""
    stage = {"kind": "supervise", "demonstrators": DEMONSTRATORS, "num_episodes": unit.demonstrations}
    summary = run(unit, WARM, {"warm_start": {**stage, "checkpoint_every": 125}}, more={"run": {"keep_checkpoints": 1}})
    return {"cpu_s": summary["cpu_s"], **held_out(unit, unit.folder(WARM) / "model")}


def trained(unit: Unit, arm: str) -> dict[str, Any]:
    """One algorithm, from the warm start to the end of its tokens; its run is removed at the end."""
    kind = STAGES.name_of(type(stage_of(arm)))
    stage = {
        "kind": kind,
        "algorithm": arm,
        "steps": MOST_STEPS,
        "max_sampled_tokens": SHORT_TOKENS if unit.short else TOKENS[unit.name],
        "playing": {"prompts_per_step": PROMPTS_PER_STEP},
        **({"learner": {"schedule": {"name": "constant"}}} if kind == "reinforce" else {}),
    }
    summary = run(unit, arm, {"rl": stage}, start=unit.folder(WARM) / "model", more={"run": NOT_RECORDED})
    lines = [json.loads(line) for line in (unit.folder(arm) / "metrics.jsonl").read_text().splitlines()]
    cell = {
        "cpu_s": summary["cpu_s"],
        "steps": summary["steps"],
        "sampled_tokens": sum(line["rollout/tokens"] for line in lines),
        "trained_tokens": sum(line.get("train/tokens", 0.0) for line in lines),
        "curve": [[line["rollout/tokens"], line["rollout/success"]] for line in lines],
        **held_out(unit, unit.folder(arm) / "model"),
    }
    shutil.rmtree(unit.folder(arm))
    return cell


def area(cell: Cell, tokens: float) -> float:
    """Mean success of training episodes over the first sampled tokens: the area under the learning curve."""
    counts, success = (np.asarray(numbers, float) for numbers in zip(*cell["curve"], strict=True))
    ends = np.minimum(list(accumulate(counts)), tokens)
    return float(np.dot(np.diff(ends, prepend=0.0), success) / ends[-1])


def area_difference(cells: Sequence[Cell], arm: str) -> Estimate | None:
    """The area of an arm minus that of the baseline, over the seeds that both have; None for fewer than two."""
    curves = {name: {c["seed"]: c for c in cells if c["arm"] == name} for name in (arm, BASELINE)}
    both = sorted(curves[arm].keys() & curves[BASELINE].keys())
    if len(both) < 2:
        return None
    pairs = [(curves[arm][seed], curves[BASELINE][seed]) for seed in both]
    shared = [min(sum(count for count, _ in cell["curve"]) for cell in pair) for pair in pairs]
    return mean_interval([area(a, most) - area(b, most) for (a, b), most in zip(pairs, shared, strict=True)])


def markdown(cells: Sequence[Cell]) -> list[str]:
    """One table an environment, and the algorithms that are clearly above or below the baseline in all of them."""
    lines: list[str] = []
    verdicts: dict[str, list[str]] = {}
    for name in sorted({cell["env"] for cell in cells}, key=list(TOKENS).index):
        own = [cell for cell in cells if cell["env"] == name]
        header = ["algorithm", "seeds", "greedy", "sampled", f"− {BASELINE}", "verdict"]
        header += ["curve", f"− {BASELINE}", "tokens", "trained", "steps", "CPU s"]
        lines += [f"### {name}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for arm in (WARM, *ARMS):
            rows = [cell for cell in own if cell["arm"] == arm]
            if rows:
                found = difference(own, arm, BASELINE, "sampled") if arm not in (WARM, BASELINE) else None
                verdicts.setdefault(arm, []).append(_verdict(found))
                lines.append("| " + " | ".join(_row(arm, rows, own, found)) + " |")
        lines.append("")
    count = len({cell["env"] for cell in cells})
    for verdict in ("better", "worse"):
        arms = [arm for arm, found in verdicts.items() if found == [verdict] * count]
        lines.append(f"Clearly {verdict} than {BASELINE} in every environment: {', '.join(arms) or 'none'}.")
    return lines


def _row(arm: str, rows: Sequence[Cell], own: Sequence[Cell], found: Estimate | None) -> list[str]:
    success = [f"{np.mean([np.mean(cell[mode]) for cell in rows]):.3f}" for mode in ("greedy", "sampled")]
    first = [arm, str(len(rows)), *success, _shown(found), _verdict(found)]
    if arm == WARM:
        return [*first, "", "", "", "", "", f"{np.mean([cell['cpu_s'] for cell in rows]):.0f}"]
    return [
        *first,
        f"{np.mean([area(cell, np.inf) for cell in rows]):.3f}",
        _shown(area_difference(own, arm) if arm != BASELINE else None),
        *(f"{np.mean([cell[name] for cell in rows]):.0f}" for name in ("sampled_tokens", "trained_tokens", "steps")),
        f"{np.mean([cell['cpu_s'] for cell in rows]):.0f}",
    ]


def _shown(found: Estimate | None) -> str:
    return "" if found is None else f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _verdict(found: Estimate | None) -> str:
    if found is None:
        return ""
    return "better" if found.low > 0 else "worse" if found.high < 0 else "undecided"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--only", default=",".join(TOKENS), help="comma-separated environments")
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated algorithms")
    parser.add_argument("--seeds", default="21,22,23", help="comma-separated")
    parser.add_argument("--short", action="store_true", help="few demonstrations and tokens, to try this script")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    args = parser.parse_args()
    for option, known in (("only", tuple(TOKENS)), ("arms", ARMS)):
        if unknown := set(getattr(args, option).split(",")) - set(known):
            parser.error(f"--{option}: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not args.table:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the runs
        torch.set_num_threads(1)  # of the episodes that are played here
        for seed in args.seeds.split(","):
            for name in args.only.split(","):
                work(Unit(name, int(seed), args.out, args.short), args.arms.split(","))
    print("\n".join(markdown(Cells.read_all(args.out / "cells"))))


if __name__ == "__main__":
    main()
