"""Many training runs: each cell of a grid with several seeds. Owns their folders and processes; a run is `train`'s."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.bench.estimates import mean_interval
from agentrl.config import dump_config
from agentrl.errors import ConfigError
from agentrl.training.plan import TrainConfig
from agentrl.training.train import open_run

_POLL_S = 0.1


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
        cell: the keys that it differs in, such as `stages.rl.learner.lr=3e-4`; `all` without any.
        config: of the run, its seed included.
        folder: where it is.
        after: the folder of a run, and the stage of it after which this one begins; None begins with the first stage.
    """

    cell: str
    config: TrainConfig
    folder: Path
    after: tuple[Path, str] | None = None


@dataclass(frozen=True)
class GridResult:
    """What became of a run: its summary, or None and the end of its output."""

    run: GridRun
    summary: Mapping[str, Any] | None
    error: str = ""


def plan_grid(
    read: Callable[[Sequence[str]], TrainConfig], out: str | Path, seeds: Sequence[int], grid: Sequence[str]
) -> list[GridRun]:
    """The runs of a grid, every configuration read and checked.

    Args:
        read: the configuration under overrides such as `seed=1`.
        out: folder of all runs; each has one of its own in it.
        seeds: at least one.
        grid: axes as `KEY=VALUE,VALUE`; every combination is a cell.
    Raises: ConfigError if an axis or a seed is given twice, or an axis has no value.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ConfigError(f"--seeds must name each seed once, got {', '.join(map(str, seeds)) or 'none'}")
    axes = [_axis(text) for text in grid]
    keys = [axis[0].partition("=")[0] for axis in axes]
    if len(set(keys)) < len(keys):
        raise ConfigError("--grid names a key twice: give all its values in one --grid KEY=A,B")
    runs = []
    for values in itertools.product(*axes):
        cell = " ".join(values) or "all"
        for seed in seeds:
            folder = Path(out) / _folder_name(cell) / f"seed-{seed}"
            runs.append(GridRun(cell, read([*values, f"seed={seed}"]), folder))
    if len({run.folder for run in runs}) < len(runs):
        raise ConfigError("two cells of the grid would share a folder: give values that differ in letters or digits")
    return runs


def _axis(text: str) -> list[str]:
    key, _, values = text.partition("=")
    found = [value.strip() for value in values.split(",")]
    if not key.strip() or not all(found) or len(set(found)) < len(found):
        raise ConfigError(f"--grid {text!r}: write KEY=VALUE,VALUE with different values")
    return [f"{key.strip()}={value}" for value in found]


def _folder_name(cell: str) -> str:
    return "".join(c if c.isalnum() or c in "-._=" else "_" for c in cell)


def run_grid(
    runs: Sequence[GridRun], *, jobs: int | None = None, on_result: Callable[[GridResult], None] = lambda result: None
) -> list[GridResult]:
    """Begin, resume or skip each run, each in a process of its own. A run that fails does not stop the others.

    Args:
        jobs: most runs at once; by default, and never more than, as many as the cores are enough for. A run that
            wants more cores than there are goes on alone.
        on_result: called when a run has ended.
    Returns: in the order of `runs`. Ctrl-C ends all processes; the same call goes on.
    Raises: ConfigError before anything begins if a folder holds a run of another configuration.
    """
    cores = len(os.sched_getaffinity(0))
    waiting = [run for run in runs if not is_done(run)]
    results = {run.folder: GridResult(run, _summary(run)) for run in runs if run not in waiting}
    for result in results.values():
        on_result(result)
    for result in _executed(waiting, min(jobs or cores, cores), cores):
        results[result.run.folder] = result
        on_result(result)
    return [results[run.folder] for run in runs]


def _executed(waiting: list[GridRun], jobs: int, cores: int) -> Iterator[GridResult]:
    queue, active = list(reversed(waiting)), dict[Path, tuple[GridRun, subprocess.Popen[bytes]]]()
    try:
        while queue or active:
            while queue and (not active or (len(active) < jobs and _fits(queue[-1], active.values(), cores))):
                run = queue.pop()
                active[run.folder] = run, _begin(run)
            ended = [run for run, process in active.values() if process.poll() is not None]
            for run in ended:
                code = active.pop(run.folder)[1].returncode
                yield GridResult(run, _summary(run)) if code == 0 else GridResult(run, None, _why(run, code))
            if not ended:
                time.sleep(_POLL_S)
    finally:
        for _, process in active.values():
            process.terminate()
        for _, process in active.values():
            process.wait()


def _fits(run: GridRun, active: Iterable[tuple[GridRun, object]], cores: int) -> bool:
    return run.config.busy_cores + sum(other.config.busy_cores for other, _ in active) <= cores


def _begin(run: GridRun) -> subprocess.Popen[bytes]:
    """Start a process for a run; its output is added to a file next to the run's folder.

    A run that an earlier call began may still write to that file.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    config = _next_to(run, "toml")
    config.write_text(dump_config(run.config), encoding="utf-8")
    command = [sys.executable, "-m", "agentrl", "train", str(config), "--out", str(run.folder), "--continue", "--json"]
    with _next_to(run, "log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _next_to(run: GridRun, ending: str) -> Path:
    return run.folder.with_name(f"{run.folder.name}.{ending}")


def is_done(run: GridRun) -> bool:
    """Whether the run is finished. Raises: ConfigError if its folder holds a run of another configuration.

    Which checkpoints are kept makes no other run: a main arm keeps them for the controls that were asked for.
    """
    if not (run.folder / "config.toml").exists():
        return False
    folder, recorded = open_run(run.folder)
    if recorded.fingerprint() != run.config.like(recorded).fingerprint():
        raise ConfigError(f"{run.folder} holds a run with another configuration: choose another --out, or move it away")
    return folder.is_finished


def _summary(run: GridRun) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    return found


def _why(run: GridRun, code: int) -> str:
    lines = _next_to(run, "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'} (all of it: {_next_to(run, 'log')})"


def grid_table(results: Sequence[GridResult]) -> list[dict[str, Any]]:
    """For each cell: runs, failed runs, and success after training by mode, as mean and 95% interval over seeds."""
    table = []
    for cell in dict.fromkeys(result.run.cell for result in results):
        own = [result for result in results if result.run.cell == cell]
        row: dict[str, Any] = {
            "cell": cell,
            "runs": [str(result.run.folder) for result in own],
            "failed": [{"run": str(r.run.folder), "error": r.error} for r in own if r.summary is None],
        }
        for mode in ("greedy", "sampled"):
            cells = [((r.summary or {}).get("after") or {}).get(mode) or {} for r in own]
            means = [float(found["mean"]) for found in cells if found.get("mean") is not None]
            row[mode] = mean_interval(means).to_json() if means else None
        table.append(row)
    return table
