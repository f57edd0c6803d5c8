"""Training against TRL and sampling against `generate` and vLLM, at several sizes of model, with identical work.

    python benchmarks/yardsticks.py --trl VENV/bin/python [--vllm VENV/bin/python] [--out runs/yardsticks]
        [--sizes 0.6M,32M,129M] [--dtypes float32,bfloat16] [--only training,engine] [--rounds 3] [--table]

Every cell is a process of its own with one torch thread and reports CPU seconds. Cells run in turns, are kept in files
as soon as they are done, and are not run again. The planned model needs TRL's template and is made with TRL's
environment. Each cell measures the products of this machine (GEMM) in the same process; the table says which share of
that was reached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from engine import make_plan

CASES = Path(__file__).parent / "yardstick_cases"
# Hidden size and layers. A vocabulary of 1,024; MLPs 2.75 times as wide; half as many key heads as query heads.
SIZES = {"0.6M": (128, 2), "32M": (512, 10), "129M": (1024, 11)}
REPEATS = 12
# Steps, prompts, group and turns of training; episodes, group and turns of sampling.
TRAINING = {"0.6M": (5, 4, 8, 4), "32M": (4, 2, 8, 4), "129M": (3, 1, 8, 4)}
SAMPLING = {"0.6M": (64, 8, 5), "32M": (16, 8, 3), "129M": (8, 8, 2)}
SINGLE = "single"
"""Unshared prompts, one episode at a time."""


@dataclass(frozen=True)
class Cell:
    """One measurement: what is measured, at which size, in which type, by whom, in which round."""

    what: str
    size: str
    dtype: str
    who: str
    number: int

    def file(self, out: Path) -> Path:
        return out / f"{self.what}-{self.size}-{self.dtype}-{self.who}-{self.number}.json"


class Yardsticks:
    """The cells of one folder. Args: pythons: interpreters of the environments, by contestant."""

    def __init__(self, out: Path, pythons: dict[str, str]) -> None:
        self.out, self.pythons = out, pythons

    def folder(self, size: str) -> Path:
        """The planned model, made at its first use."""
        path = self.out / "models" / size
        if not (path / "config.json").exists():
            hidden, layers = SIZES[size]
            made = [CASES / "planned_model.py", path, hidden, layers, 1024, REPEATS]
            subprocess.run([self.pythons["trl"], *map(str, made)], check=True)
        return path

    def plans(self, what: str, size: str) -> Path:
        """The turns that every engine samples."""
        path = self.out / "models" / f"{what}-{size}.json"
        episodes, group, turns = SAMPLING[size]
        if what.endswith(SINGLE):
            episodes, group = 1, 1
        whole = make_plan(900, episodes=episodes, group=group, turns=turns, seed=0)
        first = make_plan(900, episodes=episodes, group=group, turns=turns, seed=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"first": asdict(first), "whole": asdict(whole)}))
        return path

    def command(self, cell: Cell) -> list[str]:
        folder = str(self.folder(cell.size))
        if cell.what == "training":
            numbers = map(str, TRAINING[cell.size])
            return [self.pythons[cell.who], str(CASES / f"train_{cell.who}.py"), folder, cell.dtype, *numbers]
        plans = str(self.plans(cell.what, cell.size))
        if cell.who == "vllm":
            return [self.pythons["vllm"], str(CASES / "sample_vllm.py"), folder, cell.dtype, plans]
        return [sys.executable, str(CASES / "sample_ours.py"), folder, cell.dtype, plans, cell.who]

    def run(self, cell: Cell) -> None:
        """Measure a cell that has no file yet; what fails is said, and tried again by the next call."""
        file = cell.file(self.out)
        if file.exists():
            return
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(self.command(cell), env=env, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"{file.stem}: failed with {done.returncode}: {said}", flush=True)
            return
        file.write_text(json.dumps({**asdict(cell), **json.loads(lines[-1])}, indent=1) + "\n")
        print(f"{file.stem}: {lines[-1]}", flush=True)


def cells_of(pythons: dict[str, str], sizes: Sequence[str], dtypes: Sequence[str], rounds: int) -> Iterator[Cell]:
    """All cells, round by round."""
    whos = {
        "training": ("ours", "trl"),
        "engine": ("engine", "exact", "generate", "vllm"),
        f"engine-{SINGLE}": ("engine", "exact", "generate", "vllm"),
    }
    for number, size, (what, names) in product(range(rounds), sizes, whos.items()):
        for dtype, who in product(dtypes, names):
            if who not in ("trl", "vllm") or who in pythons:
                yield Cell(what, size, dtype, who, number)


def speed(cell: dict[str, Any]) -> float:
    """Samples (training) or sampled tokens per CPU second."""
    if cell["what"] == "training":
        return float(cell["samples"]) / float(cell["step_cpu_s"])
    return float(cell["sampled_tokens"]) / float(cell["cpu_s"])


def share_of_peak(cell: dict[str, Any]) -> float | None:
    """Operations of the layers' maps over those that the products of this machine allow in the same CPU time.

    For training only rows' own tokens count, three passes each, as if no prefix was shared; attention does not count.
    """
    hidden, layers = SIZES[cell["size"]]
    operations = 2 * 11.25 * hidden**2 * layers
    gflops = cell["gemm_gflops"][cell["dtype"]]
    if cell["what"] != "training":
        return speed(cell) * operations / 1e9 / gflops
    if "context_tokens" not in cell:
        return None
    tokens = cell["samples"] * (3 * cell["context_tokens"] + cell["sampled_tokens"])
    return float(tokens * operations / 1e9 / cell["step_cpu_s"] / gflops)


def _times(own: Sequence[dict[str, Any]], other: float) -> str:
    return f"{statistics.median(map(speed, own)) / other:.2f}x" if own else "-"


def table(out: Path) -> str:
    """Medians over rounds, and how many times as fast AgentRL is in the same type, also its exact engine."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for file in sorted(out.glob("*.json")):
        cell = json.loads(file.read_text())
        found.setdefault((cell["what"], cell["size"], cell["dtype"], cell["who"]), []).append(cell)
    lines = [
        "| what | size | type | who | rounds | per CPU s | AgentRL is | exact, it is | share of GEMM | load |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for (what, size, dtype, who), cells in sorted(found.items()):
        middle = statistics.median(map(speed, cells))
        ours = ("ours", "") if what == "training" else ("engine", "exact")
        faster = [_times(found.get((what, size, dtype, own), []), middle) for own in ours]
        shares = [share for cell in cells if (share := share_of_peak(cell)) is not None]
        loads = [cell["load"][0] for cell in cells]
        share = f"{statistics.median(shares):.1%}" if shares else "-"
        lines.append(
            f"| {what} | {size} | {dtype} | {who} | {len(cells)} | {middle:.4g} | {' | '.join(faster)} | "
            f"{share} | {min(loads):.0f}-{max(loads):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/yardsticks"))
    parser.add_argument("--trl", help="python of an environment with TRL 1.16")
    parser.add_argument("--vllm", help="python of an environment with vLLM for CPUs")
    parser.add_argument("--sizes", default="0.6M,32M,129M")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--only", default="training,engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print what is there, and measure nothing")
    given = parser.parse_args()
    if not given.table:
        pythons = {"ours": sys.executable}
        for name in ("trl", "vllm"):
            python = getattr(given, name)
            if python and subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode == 0:
                pythons[name] = python
            else:
                print(f"{name}: no environment that has it was given (--{name}), so its rows are left out")
        sizes = given.sizes.split(",")
        if "trl" not in pythons and not all((given.out / "models" / size / "config.json").exists() for size in sizes):
            parser.error("the planned models are made with TRL's template: give --trl")
        yardsticks = Yardsticks(given.out, pythons)
        for cell in cells_of(pythons, sizes, given.dtypes.split(","), given.rounds):
            if cell.what.split("-")[0] in given.only.split(","):
                yardsticks.run(cell)
    print(table(given.out))
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
