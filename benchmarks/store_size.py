"""What `agentrl report` and `agentrl compare` take on stores of growing size: peak memory and time.

usage: nice -n 10 python benchmarks/store_size.py [--mb 10 100 1000] [--shapes long short] [--out OUT] [--under DIR]

Makes stores of each size in a temporary folder (or under --under): two benchmarks and a training run. A benchmark of 16
episodes is really played; its lines are repeated under other names until the store has the size. `long` episodes have
10 turns of 300 observed and 60 sampled tokens, `short` ones 4 turns of 24 and 24. The second benchmark has other
outcomes on half of the tasks. Then each command runs in a process of its own, and the table says its peak of resident
memory, its seconds of CPU, and how both grow: an exponent of 1 is as fast as the store, 0 not at all.

Each finished row is a line of OUT/rows.jsonl and is not measured again. Exit code 1 if a command holds more than
--most-mb.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentrl.bench.result import BenchConfig
from agentrl.bench.runner import run_bench
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, ToolCall
from agentrl.policy.function import FunctionPolicy
from agentrl.rollout.store import write_summary
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

PLAYED = 16
VOCABULARY = 150_000
KEPT = Path(__file__).resolve().parent / "results" / "store-size"
COMMANDS = {
    "report, benchmark": ["report", "{bench}"],
    "report, training run": ["report", "{run}"],
    "compare": ["compare", "{bench}", "{other}"],
    "compare --report": ["compare", "{bench}", "{other}", "--report", "{bench}/both.html"],
}


# The peak is read from the process itself: what the kernel tells its parent is no less than the parent's own.
_CHILD = """
import atexit, sys, time
def told():
    with open("/proc/self/status") as status:
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print(peak, time.process_time(), file=sys.stderr)
atexit.register(told)
from agentrl.cli import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Row:
    """One command on one size of store."""

    shape: str
    size_mb: float
    command: str
    store_mb: float
    episodes: int
    peak_mb: float
    cpu_s: float
    wall_s: float

    @property
    def cell(self) -> tuple[str, float, str]:
        return self.shape, self.size_mb, self.command


@dataclass(frozen=True)
class Shape:
    """Of an episode: its turns, and the tokens that each of them observes and samples."""

    turns: int
    observed: int
    sampled: int


SHAPES = {"long": Shape(10, 300, 60), "short": Shape(4, 24, 24)}


class Library(ToolEnv):
    """Read pages until enough were read, then answer."""

    words = 150
    solved_by = 1

    tasks = Tasks.of(eval=[{"n": n} for n in range(PLAYED)])

    def start(self, task: Task) -> str:
        return f"Read the pages of book {task.data['n']}."

    @tool
    def read(self, page: int) -> str:
        """Read a page."""
        words = random.Random(page)
        return " ".join(f"word{words.randrange(5_000)}" for _ in range(self.words))

    def score(self, answer: str | None) -> float:
        return float(self.task.data["n"] // self.solved_by % 2)


def reader(shape: Shape) -> FunctionPolicy:
    """Reads a page in all turns but the last one, with made-up tokens, as a local model records them."""

    async def act(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Action:
        turn = len(messages) // 2
        ids = random.Random(7)
        size = turn * (shape.observed + shape.sampled) + shape.observed
        context = tuple(ids.randrange(VOCABULARY) for _ in range(size + shape.sampled))
        last = turn >= shape.turns - 1
        return Action(
            text="It is done." if last else "",
            tool_calls=() if last else (ToolCall("read", {"page": turn}),),
            prompt_ids=context[:size],
            token_ids=context[size:],
            logprobs=tuple(-ids.random() for _ in range(shape.sampled)),
            versions=(0,) * shape.sampled,
            usage={"prompt_tokens": size, "completion_tokens": shape.sampled, "cached_tokens": 0},
        )

    return FunctionPolicy(act, "reader")


def play(folder: Path, shape: Shape, solved: int = 1) -> None:
    """The benchmark whose lines are repeated. Args: solved: which half of the tasks are."""

    class Shaped(Library):
        max_turns = shape.turns + 1
        words = shape.observed // 2
        solved_by = solved

    run_bench(Shaped, reader(shape), config=BenchConfig(references=False), out=folder)


def multiply(source: Path, folder: Path, size: int) -> int:
    """A benchmark's folder of about `size` bytes, with other names for each repetition. Returns: its episodes."""
    folder.mkdir(parents=True)
    lines = (source / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    summary = json.loads((source / "summary.json").read_text())
    tasks, marks = summary["tasks"], summary["identity"]["tasks"]["fingerprints"]
    old_tasks, old_marks = dict(tasks), dict(marks)
    tasks.clear()
    marks.clear()
    count = 0
    with (folder / "trajectories.jsonl").open("wb") as file:
        for round_ in _rounds(file, size):
            for line in lines:
                record = json.loads(line)
                if "turns" not in record:
                    file.write(line) if not round_ else None
                    continue
                task = record["task"]["id"]
                name = f"{task}-{round_}"
                file.write(_renamed(line, task, name))
                tasks[name], marks[name] = old_tasks[task], old_marks[task]
                count += 1
    summary |= {"n_planned": count, "n_tasks": count, "n_episodes": count}
    write_summary(folder / "summary.json", summary)
    return count


def _rounds(file: Any, size: int) -> Iterator[int]:
    number = 0
    while file.tell() < size:
        yield number
        number += 1


def _renamed(line: bytes, task: str, name: str) -> bytes:
    quoted, group = f'"id":"{task}"', f"bench/{task}#"
    return line.replace(quoted.encode(), f'"id":"{name}"'.encode()).replace(group.encode(), f"bench/{name}#".encode())


def as_run(source: Path, folder: Path) -> None:
    """A training run's folder with the same episodes: an evaluation before, steps, and an evaluation after."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"stage": "rl", "step": n, "version": n, "time_s": float(n), "rollout/success": 0.5}) + "\n"
            for n in range(50)
        )
    )
    with (source / "trajectories.jsonl").open("rb") as read, (folder / "trajectories.jsonl").open("wb") as write:
        size = os.fstat(read.fileno()).st_size
        for line in read:
            part = read.tell() / size
            stage, mode = (
                ("before", "greedy") if part < 0.3 else ("rl", "sampled") if part < 0.7 else ("after", "greedy")
            )
            labels = f'"stage":"{stage}","step":0,"mode":"{mode}"'
            write.write(line.replace(b'"stage":"bench","step":0,"mode":"sampled"', labels.encode()))


def measured(command: list[str]) -> tuple[float, float, float]:
    """Peak MB, CPU seconds and wall seconds of a command. Raises: RuntimeError if it fails."""
    began = time.perf_counter()
    child = [sys.executable, "-c", _CHILD, *command]
    done = subprocess.run(child, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: compared, but not to be trusted
        raise RuntimeError(f"agentrl {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    peak_kb, cpu_s = done.stderr.split()[-2:]
    return float(peak_kb) / 1024, float(cpu_s), time.perf_counter() - began


def exponent(first: tuple[float, float], last: tuple[float, float]) -> float:
    """The power of the size with which a number grows, from two (size, number)."""
    return math.log(last[1] / first[1]) / math.log(last[0] / first[0])


def measure(shape: str, size_mb: float, commands: Collection[str], root: Path, keep: Callable[[Row], None]) -> None:
    """Commands on stores of one shape and size, which are removed afterwards."""
    places = {name: root / f"{size_mb:g}-{name}" for name in ("bench", "other", "run")}
    for name, solved in (("bench", 1), ("other", 2)):
        play(root / f"played-{solved}", SHAPES[shape], solved)
        count = multiply(root / f"played-{solved}", places[name], int(size_mb * 1e6))
        shutil.rmtree(root / f"played-{solved}")
    as_run(places["bench"], places["run"])
    store_mb = (places["bench"] / "trajectories.jsonl").stat().st_size / 1e6
    for name in commands:
        peak, cpu_s, wall_s = measured([word.format(**places) for word in COMMANDS[name]])
        keep(Row(shape, size_mb, name, store_mb, count, peak, cpu_s, wall_s))
        print(f"{shape} {store_mb:8.0f} MB  {name:22}  peak {peak:7.0f} MB  {cpu_s:7.1f} s CPU", flush=True)
    for place in places.values():
        shutil.rmtree(place)


def shown(rows: list[Row]) -> str:
    """The table: one line for each shape, command and size, with the exponents over all sizes."""
    lines = [
        "| episodes | command | store | number | peak | CPU | memory grows with | time grows with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape, name in itertools.product(SHAPES, COMMANDS):
        own = sorted((row for row in rows if (row.shape, row.command) == (shape, name)), key=lambda row: row.store_mb)
        for row in own:
            power = ["", ""]
            if row is own[-1] and len(own) > 1:
                first = own[0]
                power = [
                    f"size^{exponent((first.store_mb, getattr(first, of)), (row.store_mb, getattr(row, of))):.2f}"
                    for of in ("peak_mb", "cpu_s")
                ]
            lines.append(
                f"| {shape} | {name} | {row.store_mb:,.0f} MB | {row.episodes:,} | {row.peak_mb:,.0f} MB "
                f"| {row.cpu_s:.1f} s | {power[0]} | {power[1]} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mb", type=float, nargs="+", default=[10, 100, 1000], help="sizes of stores")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="of the episodes")
    parser.add_argument("--most-mb", type=float, default=300, help="exit code 1 above this peak")
    parser.add_argument("--out", type=Path, default=KEPT, help="where finished rows are kept")
    parser.add_argument("--under", type=Path, help="where the stores are made; a temporary folder by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "rows.jsonl"
    rows = [Row(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    def keep(row: Row) -> None:
        rows.append(row)
        with log.open("a") as lines:
            lines.write(json.dumps(asdict(row)) + "\n")

    done = {row.cell for row in rows}
    with tempfile.TemporaryDirectory(dir=options.under) as temporary:
        for shape, size_mb in itertools.product(options.shapes, options.mb):
            missing = [name for name in COMMANDS if (shape, size_mb, name) not in done]
            if missing:
                measure(shape, size_mb, missing, Path(temporary), keep)
    print(shown(rows))
    return int(any(row.peak_mb > options.most_mb for row in rows))


if __name__ == "__main__":
    sys.exit(main())
