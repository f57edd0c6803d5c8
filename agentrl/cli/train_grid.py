"""`agentrl train` with --seeds, --grid or --controls: many runs, one table. The runs are `agentrl.training.sweeps`'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentrl.bench.arms import ArmRuns, compare_arms
from agentrl.bench.views.arms import render_arms, write_arms
from agentrl.cli.boundary import note, print_json, print_tables, say

if TYPE_CHECKING:
    from agentrl.training.plan import TrainConfig
    from agentrl.training.sweeps.arms import Arm
    from agentrl.training.sweeps.grid import GridResult, GridRun


_PIPE_WIDTH = 160


def train_grid(
    read: Callable[[Sequence[str]], TrainConfig],
    out: Path,
    seeds: str,
    grid: Sequence[str],
    jobs: int | None,
    *,
    as_json: bool,
) -> bool:
    """Run every cell with every seed, and print the table. Returns: whether all runs succeeded."""
    from agentrl.training.sweeps.grid import grid_table, plan_grid, run_grid  # loads torch

    runs = plan_grid(read, out, numbers(seeds), grid)
    results = run_all(run_grid, runs, out, jobs)
    table = grid_table(results)
    if as_json:
        print_json({"cells": table})
    else:
        say(_text(table))
    return all(result.summary for result in results)


def train_arms(arms: Sequence[Arm], out: Path, seeds: str, jobs: int | None, *, as_json: bool) -> bool:
    """Run every arm of a file with every seed; print and write the report. Returns: whether all runs succeeded."""
    from agentrl.training.sweeps.arms import plan_arms, run_arms  # loads torch

    runs = plan_arms(arms, out, numbers(seeds))
    results = run_all(run_arms, runs, out, jobs)
    finished = [result.run for result in results if result.summary]
    found = compare_arms(
        [
            ArmRuns(arm.name, arm.about, {run.config.seed: run.folder for run in finished if run.cell == arm.name})
            for arm in arms
        ]
    )
    write_arms(out, found)
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(render_arms(found), _PIPE_WIDTH)
        say(f"Report: {out / 'arms.html'}")
    return len(finished) == len(runs)


def run_all(
    run: Callable[..., list[GridResult]], runs: Sequence[GridRun], out: Path, jobs: int | None
) -> list[GridResult]:
    """Run many, and say of each how it ended."""
    done = 0

    def tell(result: GridResult) -> None:
        nonlocal done
        done += 1
        note(f"[{done}/{len(runs)}] {result.run.folder}: {'finished' if result.summary else result.error}")

    note(f"{len(runs)} runs in {out}")
    try:
        return run(runs, jobs=jobs, on_result=tell)
    except KeyboardInterrupt:
        note(f"\nStopped. {len(runs) - done} runs are not finished: the same command goes on with them.")
        raise


def numbers(seeds: str) -> list[int]:
    """The seeds of a text such as `0,1,2`."""
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise click.UsageError(f"--seeds {seeds!r}: write whole numbers with commas, such as 0,1,2") from None


def _text(table: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(row["cell"]) for row in table) + 2
    lines = ["", "success on held-out tasks after training, mean over seeds with 95% intervals", ""]
    lines.append(f"{'':<{width}}{'greedy':<26}{'sampled':<26}runs")
    for row in table:
        runs = f"{len(row['runs'])}" + (f", {len(row['failed'])} failed" if row["failed"] else "")
        lines.append(f"{row['cell']:<{width}}{_cell(row['greedy']):<26}{_cell(row['sampled']):<26}{runs}")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["ci95"]
    return f"{found['mean']:.3f}" + ("" if low is None or high is None else f"  [{low:.3f}, {high:.3f}]")
