"""CPU per step of whole benchmark runs: AgentRL, Inspect AI and verifiers on the same episodes and mock model.

    python benchmarks/harness_overhead.py [--under DIR] [--cells DIR] [--rounds 5] [--concurrency 64] [--only inspect]
    python benchmarks/harness_overhead.py --table [--cells DIR]

AgentRL runs in this interpreter; every other harness is installed into a new virtual environment DIR/NAME. A round
visits each harness twice, with the records that it keeps by default and without records, in an order that rotates, each
visit in a process of its own: a warm-up, then two sizes. A figure is the difference of their CPU over the difference of
their steps, so that imports, start and end cancel. Every visit checks that the mock model answered 7 turns an episode,
that all scores are 1 and that the records hold what the tools returned. A visit that is finished is a file of the
folder of cells, and is not run again. Exit code 1 if AgentRL takes more than half the CPU of the fastest other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overhead import conditions as machine

HERE = Path(__file__).resolve().parent
CELLS = HERE / "results" / "harness-overhead"
UNDER = Path("/tmp/agentrl-harnesses")
STAMP = ".installed"
OURS, TARGET = "agentrl", 0.5


@dataclass(frozen=True)
class Harness:
    """A system that plays episodes of a benchmark.

    Attributes:
        module: of `harness_cases`, which plays.
        package: whose version is shown.
        installs: what pip installs; empty for this interpreter.
        sizes: episodes of the two runs whose difference is measured; a fast harness plays more.
        runs: what runs, for the table.
    """

    name: str
    module: str
    package: str
    installs: tuple[str, ...]
    sizes: tuple[int, int]
    runs: str


HARNESSES = (
    Harness(OURS, "agentrl_bench", "agentrl", (), (256, 2304), "`run_bench`, a `ToolEnv` and a `Policy`"),
    Harness(
        "inspect", "inspect_eval", "inspect_ai", ("inspect-ai==0.3.285",), (64, 192), "`eval`, `generate`, `mockllm`"
    ),
    Harness(
        "verifiers", "verifiers_eval", "verifiers", ("verifiers==0.4.0",), (64, 192), "`run_eval`, in-process harness"
    ),
    Harness(
        "verifiers-toolenv",
        "verifiers_toolenv",
        "verifiers",
        ("verifiers==0.3.1",),
        (64, 320),
        "`ToolEnv.run_rollout`, release before 0.4",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--under", type=Path, default=UNDER, help="folder of the virtual environments")
    parser.add_argument("--cells", type=Path, default=CELLS, help="folder of the finished visits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64, help="episodes alive at the same time")
    parser.add_argument("--only", help=f"comma-separated names; `{OURS}` is always measured")
    parser.add_argument("--table", action="store_true", help="print the finished visits, run nothing")
    given = parser.parse_args()
    cells = given.cells / str(given.concurrency)
    names = None if given.only is None else {OURS, *given.only.split(",")}
    harnesses = [h for h in HARNESSES if names is None or h.name in names]
    if not given.table:
        pythons = {h.name: installed(h, given.under) for h in harnesses}
        for number in range(1, given.rounds + 1):
            play_round(number, harnesses, pythons, cells, given.concurrency)
    print(table(harnesses, cells))
    print("\n" + conditions(cells))
    sys.exit(0 if all(ratio <= TARGET for ratio in shares(harnesses, cells).values()) else 1)


def installed(harness: Harness, under: Path) -> Path:
    """The interpreter of the harness's virtual environment, which is made where it is not complete."""
    if not harness.installs:
        return Path(sys.executable)
    folder = under / harness.name
    python = folder / "bin" / "python"
    if not (folder / STAMP).exists():
        print(f"installing {', '.join(harness.installs)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *harness.installs], check=True)
        (folder / STAMP).touch()
    return python


def play_round(number: int, harnesses: list[Harness], pythons: dict[str, Path], cells: Path, concurrency: int) -> None:
    """Visit what is not finished of a round."""
    turn = number % len(harnesses)
    for harness in harnesses[turn:] + harnesses[:turn]:
        for records in (True, False):
            path = cell(cells, harness.name, records, number)
            if not path.exists():
                found = visit(harness, pythons[harness.name], records, concurrency)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found) + "\n")
                print(f"{path.stem}: {found['us_per_step']:.1f} µs a step", file=sys.stderr)


def visit(harness: Harness, python: Path, records: bool, concurrency: int) -> dict[str, Any]:
    """One process. Raises: CalledProcessError if it fails; its error is printed above."""
    command = [str(python), str(HERE / "harness_worker.py"), harness.module, harness.package]
    command += ["--sizes", *map(str, harness.sizes), "--concurrency", str(concurrency)]
    load = os.getloadavg()[0]
    ran = subprocess.run(
        [*command, *([] if records else ["--unrecorded"])], check=True, stdout=subprocess.PIPE, text=True
    )
    return {**json.loads(ran.stdout), "load": [load, os.getloadavg()[0]]}


def cell(cells: Path, name: str, records: bool, number: int | str) -> Path:
    return cells / f"{name}.{'recorded' if records else 'unrecorded'}.{number}.json"


def figures(cells: Path, name: str, records: bool) -> dict[str, dict[str, Any]]:
    """The finished visits, by round."""
    found = sorted(cells.glob(cell(cells, name, records, "*").name))
    return {path.name.split(".")[2]: json.loads(path.read_text()) for path in found}


def shares(harnesses: list[Harness], cells: Path) -> dict[str, float]:
    """AgentRL's CPU per step over each other harness's: medians over rounds, records on."""
    ours = figures(cells, OURS, True)
    shares = {}
    for harness in harnesses:
        theirs = figures(cells, harness.name, True)
        ratios = [ours[n]["us_per_step"] / theirs[n]["us_per_step"] for n in ours.keys() & theirs.keys()]
        if ratios and harness.name != OURS:
            shares[harness.name] = statistics.median(ratios)
    return shares


def table(harnesses: list[Harness], cells: Path) -> str:
    """A row of Markdown for each harness and way of recording: medians, their spread, and AgentRL's share."""
    rows = ["| harness | version | records | CPU µs/step | min–max | AgentRL's share | bytes/episode | what runs |"]
    rows.append("|---|---|---|---:|---:|---:|---:|---|")
    ours = {records: figures(cells, OURS, records) for records in (True, False)}
    for records in (True, False):
        for harness in harnesses:
            found = figures(cells, harness.name, records)
            if not found:
                continue
            times = {number: visit["us_per_step"] for number, visit in found.items()}
            ratios = [ours[records][n]["us_per_step"] / times[n] for n in ours[records].keys() & times.keys()]
            share = f"1/{1 / statistics.median(ratios):.1f}" if ratios else "-"
            size = statistics.median(visit["bytes_per_episode"] for visit in found.values())
            rows.append(
                f"| {harness.name} | {next(iter(found.values()))['version']} | {'yes' if records else 'no'} "
                f"| {statistics.median(times.values()):.1f} | {min(times.values()):.1f}–{max(times.values()):.1f} "
                f"| {'1' if harness.name == OURS else share} | {size:.0f} | {harness.runs} |"
            )
    return "\n".join(rows)


def conditions(cells: Path) -> str:
    """Machine, load and rounds of the finished visits."""

    visits = [json.loads(path.read_text()) for path in cells.glob("*.json")]
    loads = sorted(load for visit in visits for load in visit["load"])
    here = machine()
    rounds = len({path.name.split(".")[2] for path in cells.glob("*.json")})
    said = f"load {loads[0]:.1f} to {loads[-1]:.1f}, median {statistics.median(loads):.1f}" if loads else "nothing run"
    return f"{here['cpu']}, {here['system']}, Python {here['python']}, {rounds} rounds, {said}"


if __name__ == "__main__":
    main()
