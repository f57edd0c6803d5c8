"""Where the bottleneck of a run moves from 1 to 1,000 samplers: a simulation with measured costs, and its check.

usage: OMP_NUM_THREADS=1 python benchmarks/scale_simulation.py [--repeats 3] [--steps 10] [--out OUT] [--table]
       VENV/bin/python benchmarks/scale_simulation.py --engine ray      VENV has agentrl[ray]

1. Costs: for each shape a training run with one sampler, which plays four episodes at once: their durations, the
   learner's seconds, packing and taking weights, and what a group costs the thread that talks to the samplers.
2. Check: real runs with 1, 2 and 4 samplers at lag 0 and 1 against the simulation with the costs of one sampler. Their
   tools wait, so that four samplers overlap also on two cores. Cost runs and checked runs have different seeds and take
   turns, `--repeats` times. Exit code 1 if a prediction is more than 20% off.
3. Growth: 1 to 1,000 samplers, one core each, steps of 256 groups. The bottleneck is the part whose cost, were it zero,
   would make the run fastest; beside it stands how much faster.

Each finished run is a line of OUT/runs.jsonl and is not run again. Networks between machines are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scale_parts.measuring import EPISODES, GROUPS, Shape, costs_of, measured_run, model_of
from scale_parts.simulation import Plan, gains, steps_per_s

from agentrl.training.model_setup import ModelConfig

SHAPES = {
    "waits": Shape(wait_s=2.5),
    "computes": Shape(),
    "larger model": Shape(model=ModelConfig(hidden_size=512, num_layers=8)),
}
CHECKED, BOUND = "waits", 0.2
PLANS = [Plan(workers, GROUPS, EPISODES, lag, EPISODES) for lag in (0, 1) for workers in (1, 2, 4)]
COUNTS, LARGE_STEP, LAGS = (1, 4, 16, 64, 256, 1000), 256, (0, 1)
FASTER = 100
"""A learner on other hardware, beside the measured one, so that what else bounds a run is seen."""
KEPT = Path(__file__).resolve().parent / "results" / "scale-simulation"
Rows = list[dict[str, Any]]


def cells(repeats: int, engine: str) -> Iterator[tuple[str, str, Plan, int]]:
    """Name, shape, plan and seed of every run, in the order in which they take turns."""
    for repeat in range(repeats):
        for shape in SHAPES if engine == "processes" else [CHECKED]:
            yield f"{engine}/costs/{shape}/{repeat}", shape, PLANS[0], 100 + repeat
            if shape == CHECKED:
                for plan in PLANS:
                    yield f"{engine}/check/{plan.workers} at lag {plan.lag}/{repeat}", shape, plan, 200 + repeat


def measure(given: argparse.Namespace, log: Path) -> Rows:
    """Make the runs that are not finished yet."""
    rows: Rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["cell"] for row in rows}
    with TemporaryDirectory(prefix="scale-") as scratch:
        for cell, name, plan, seed in cells(given.repeats, given.engine):
            if cell in done or given.table or given.only not in cell:
                continue
            model = model_of(SHAPES[name], Path(scratch) / name.replace(" ", "-"))
            found = measured_run(SHAPES[name], model, plan, given.steps, seed, given.engine)
            rows.append({"cell": cell, **found})
            with log.open("a") as lines:
                lines.write(json.dumps(rows[-1]) + "\n")
            print(f"{cell}: {found['steps_per_s']:.4f} steps/s, load {found['load']:.1f}", flush=True)
    return rows


def of(rows: Rows, start: str) -> Rows:
    return [row for row in rows if row["cell"].startswith(start + "/")]


def check_table(rows: Rows, engine: str) -> tuple[str, float]:
    """Real and simulated steps a second. Returns: the table, and the largest error as a share."""
    lines = ["| samplers | lag | real steps/s (min-max) | simulated | error |", "|---:|---:|---:|---:|---:|"]
    costs, worst = costs_of(of(rows, f"{engine}/costs/{CHECKED}")), 0.0
    for plan in PLANS:
        real = [row["steps_per_s"] for row in of(rows, f"{engine}/check/{plan.workers} at lag {plan.lag}")]
        if not real:
            continue
        simulated, middle = steps_per_s(costs, plan, runs=50), statistics.median(real)
        error = simulated / middle - 1
        worst = max(worst, abs(error))
        lines.append(
            f"| {plan.workers} | {plan.lag} | {middle:.4f} ({min(real):.4f}-{max(real):.4f}) | {simulated:.4f} | "
            f"{error:+.1%} |"
        )
    return "\n".join(lines), worst


def cost_table(rows: Rows, engine: str) -> str:
    lines = [
        "| shape | episode, s (median, 95%) | learner, s/group | rest, s/step | pack, s | take weights, s | "
        "driver, ms/group | push, ms/sampler |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in SHAPES:
        if runs := of(rows, f"{engine}/costs/{name}"):
            costs = costs_of(runs)
            episodes = sorted(costs.episode_s)
            lines.append(
                f"| {name} | {statistics.median(episodes):.3f}, {episodes[int(0.95 * (len(episodes) - 1))]:.3f} | "
                f"{costs.learn_s:.4f} | {costs.fixed_s:.3f} | {costs.pack_s:.4f} | {costs.unpack_s:.4f} | "
                f"{1000 * costs.message_s:.2f} | {1000 * costs.push_s:.2f} |"
            )
    return "\n".join(lines)


def growth_table(rows: Rows, engine: str) -> str:
    """Steps a minute, and the bottleneck, by shape and lag."""
    lines = ["| shape | lag | " + " | ".join(map(str, COUNTS)) + " |", "|---|---:|" + "---|" * len(COUNTS)]
    for name in SHAPES:
        if not (runs := of(rows, f"{engine}/costs/{name}")):
            continue
        measured = costs_of(runs)
        fast = replace(measured, learn_s=measured.learn_s / FASTER, fixed_s=measured.fixed_s / FASTER)
        cases = [(name, measured, lag) for lag in LAGS] + [(f"{name}, learner {FASTER}x as fast", fast, LAGS[-1])]
        for label, costs, lag in cases:
            found = []
            for workers in COUNTS:
                plan = Plan(workers, LARGE_STEP, EPISODES, lag, EPISODES)
                gain = gains(costs, plan, steps=10)
                part = max(gain, key=lambda part: gain[part])
                found.append(f"{60 * steps_per_s(costs, plan, steps=10):.2f}, {part} {gain[part]:.1f}x")
            lines.append(f"| {label} | {lag} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of every run")
    parser.add_argument("--steps", type=int, default=10, help="of a run, the first of which do not count")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="who starts the samplers")
    parser.add_argument("--only", default="", help="runs whose name, such as processes/check/1 at lag 0/0, has this")
    parser.add_argument("--out", type=Path, default=KEPT, help="where finished runs are kept")
    parser.add_argument("--table", action="store_true", help="only print the tables of the finished runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = measure(given, given.out / "runs.jsonl")
    if not of(rows, f"{given.engine}/costs/{CHECKED}"):
        return 0
    table, worst = check_table(rows, given.engine)
    print(f"\n{cost_table(rows, given.engine)}\n\n{table}\n\n{growth_table(rows, given.engine)}")
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; largest error {worst:.1%}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
