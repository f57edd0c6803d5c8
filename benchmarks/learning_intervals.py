"""The cells of `learning_table.py`, and their table: paired differences with intervals over tasks and seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.bench.estimates import Estimate, t_quantile

Cell = dict[str, Any]


class Cells:
    """Reading of the files of finished cells; a line that was cut off is left out, and its cell computed again."""

    @staticmethod
    def read(path: Path) -> list[Cell]:
        """The cells of one environment and seed."""
        cells = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                cells.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return cells

    @staticmethod
    def read_all(folder: Path) -> list[Cell]:
        """All cells of a folder."""
        return [cell for path in sorted(folder.glob("*.jsonl")) for cell in Cells.read(path)]

    @staticmethod
    def one(path: Path, arm: str) -> Cell:
        """The cell of an arm."""
        return next(cell for cell in Cells.read(path) if cell["arm"] == arm)

    @staticmethod
    def said(cell: Cell) -> str:
        """Greedy and sampled success, and everything else that is one number, on one line."""
        rest = {k: v for k, v in cell.items() if k not in ("env", "seed", "arm", "greedy", "sampled")}
        return f"{np.mean(cell['greedy']):.3f}/{np.mean(cell['sampled']):.3f} {json.dumps(rest)}"


def paired_interval(differences_ST: Sequence[Sequence[float]]) -> Estimate:
    """Mean of paired differences over seeds and tasks, both random, with a 95% t-interval.

    The variance of the mean is that between tasks, plus that between seeds, minus that of single cells, and never less
    than either of the first two. Its degrees of freedom follow Satterthwaite. One seed says nothing about seeds: then
    the interval is over tasks alone. Differences that are all 0 have an interval of width 0.

    Args: differences_ST: (seeds, tasks).
    Source: Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2), eq. 2.11 (two-way clustering).
    """
    d = np.asarray(differences_ST, float)
    seeds, tasks = d.shape
    of_tasks = float(np.var(d.mean(axis=0), ddof=1)) / tasks
    of_seeds = float(np.var(d.mean(axis=1), ddof=1)) / seeds if seeds > 1 else 0.0
    of_cells = float(np.var(d, ddof=1)) / d.size if seeds > 1 else 0.0
    variance = max(of_tasks + of_seeds - of_cells, of_tasks, of_seeds)
    freedom = of_tasks**2 / (tasks - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    half = t_quantile(max(1, int(variance**2 / freedom))) * math.sqrt(variance) if variance else 0.0
    mean = float(d.mean())
    return Estimate(mean, mean - half, mean + half, d.size)


def difference(cells: Sequence[Cell], arm: str, other: str, mode: str) -> Estimate | None:
    """Success of an arm minus that of another, over the seeds that both have; None if there are none."""
    by_seed = {name: {cell["seed"]: cell[mode] for cell in cells if cell["arm"] == name} for name in (arm, other)}
    both = sorted(by_seed[arm].keys() & by_seed[other].keys())
    if not both:
        return None
    return paired_interval([np.subtract(by_seed[arm][seed], by_seed[other][seed]).tolist() for seed in both])


def markdown(cells: Sequence[Cell], names: Sequence[str]) -> list[str]:
    """The table: mean success (greedy/sampled) of each arm, and sampled differences with intervals."""
    arms = [arm for arm in ("before", "rl", "further", "shuffled", "rate_0") if any(c["arm"] == arm for c in cells)]
    header = ["environment", "seeds", *arms, "rl − before", "rl − further", "verdict", "groups 0/1/differ", "CPU s"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name in names:
        own = [cell for cell in cells if cell["env"] == name]
        if own:
            lines.append("| " + " | ".join(_row(name, own, arms)) + " |")
    return lines


def _row(name: str, cells: Sequence[Cell], arms: Sequence[str]) -> list[str]:
    found = [difference(cells, "rl", other, "sampled") for other in ("before", "further")]
    rl = [cell for cell in cells if cell["arm"] == "rl"]
    groups = "/".join(str(sum(c["groups"][kind] for c in rl)) for kind in ("all_0", "all_1", "differ"))
    cpu_s = [
        c["cpu_s"] + next(w["cpu_s"] for w in cells if w["arm"] == "before" and w["seed"] == c["seed"]) for c in rl
    ]
    return [
        name,
        str(len({cell["seed"] for cell in cells})),
        *(_success([cell for cell in cells if cell["arm"] == arm]) for arm in arms),
        *("" if one is None else f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in found),
        verdict(found),
        groups,
        f"{max(cpu_s):.0f}" if cpu_s else "",
    ]


def verdict(found: Sequence[Estimate | None]) -> str:
    """Better if every interval lies above 0; worse if one lies below 0."""
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return ""
    if all(one.low > 0 for one in known):
        return "better"
    return "worse" if any(one.high < 0 for one in known) else "undecided"


def _success(cells: Sequence[Cell]) -> str:
    if not cells:
        return ""
    greedy, sampled = (np.mean([np.mean(cell[mode]) for cell in cells]) for mode in ("greedy", "sampled"))
    return f"{greedy:.3f}/{sampled:.3f}"
