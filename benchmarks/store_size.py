"""What `agentrl report` and `agentrl compare` take on stores of growing size: peak memory and time.

usage: nice -n 10 python benchmarks/store_size.py [--mb 10 100 1000] [--turns 20] [--observed 300] [--sampled 60]
       [--under DIR] [--json]

Makes stores of each size in a temporary folder (or under --under): a benchmark's and a training run's. One benchmark of
16 short episodes is really played; its lines are repeated under other names until the store has the size. Then each
command runs in a process of its own, and the table says its peak of resident memory, its seconds of CPU, and how both
grow: an exponent of 1 is as fast as the store, 0 not at all. Exit code 1 if a command fails, or holds more than
--most-mb.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
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

    command: str
    store_mb: float
    episodes: int
    peak_mb: float
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Shape:
    """Of an episode: its turns, and the tokens that each of them observes and samples."""

    turns: int = 20
    observed: int = 300
    sampled: int = 60


class Library(ToolEnv):
    """Read pages until enough were read, then answer."""

    words = 150

    tasks = Tasks.of(eval=[{"n": n} for n in range(PLAYED)])

    def start(self, task: Task) -> str:
        return f"Read the pages of book {task.data['n']}."

    @tool
    def read(self, page: int) -> str:
        """Read a page."""
        words = random.Random(page)
        return " ".join(f"word{words.randrange(5_000)}" for _ in range(self.words))

    def score(self, answer: str | None) -> float:
        return float(self.task.data["n"] % 2)


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


def play(folder: Path, shape: Shape) -> None:
    """The benchmark whose lines are repeated."""

    class Shaped(Library):
        max_turns = shape.turns + 1
        words = shape.observed // 2

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


def rows_of(size_mb: float, played: Path, root: Path) -> list[Row]:
    """Every command on stores of one size, which are removed afterwards."""
    places = {name: root / f"{size_mb:g}-{name}" for name in ("bench", "other", "run")}
    count = multiply(played, places["bench"], int(size_mb * 1e6))
    places["other"].mkdir()
    for file in places["bench"].iterdir():
        os.link(file, places["other"] / file.name)
    as_run(places["bench"], places["run"])
    store_mb = (places["bench"] / "trajectories.jsonl").stat().st_size / 1e6
    rows = []
    for name, words in COMMANDS.items():
        peak, cpu_s, wall_s = measured([word.format(**places) for word in words])
        rows.append(Row(name, store_mb, count, peak, cpu_s, wall_s))
        print(f"{store_mb:8.0f} MB  {name:22}  peak {peak:7.0f} MB  {cpu_s:7.1f} s CPU", file=sys.stderr, flush=True)
    for place in places.values():
        shutil.rmtree(place)
    return rows


def shown(rows: list[Row]) -> str:
    """The table: one line for each command and size, with the exponents over all sizes."""
    lines = [
        "| command | store | episodes | peak | CPU | memory grows with | time grows with |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in COMMANDS:
        own = [row for row in rows if row.command == name]
        for row in own:
            power = ["", ""]
            if row is own[-1] and len(own) > 1:
                first = own[0]
                power = [
                    f"size^{exponent((first.store_mb, getattr(first, of)), (row.store_mb, getattr(row, of))):.2f}"
                    for of in ("peak_mb", "cpu_s")
                ]
            lines.append(
                f"| {name} | {row.store_mb:,.0f} MB | {row.episodes:,} | {row.peak_mb:,.0f} MB | {row.cpu_s:.1f} s "
                f"| {power[0]} | {power[1]} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mb", type=float, nargs="+", default=[10, 100, 1000], help="sizes of stores")
    for name in (one.name for one in fields(Shape)):
        parser.add_argument(f"--{name}", type=int, default=getattr(Shape, name), help=f"as Shape.{name}")
    parser.add_argument("--most-mb", type=float, default=300, help="exit code 1 above this peak")
    parser.add_argument("--under", type=Path, help="where the stores are made; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.under) as temporary:
        root = Path(temporary)
        play(root / "played", Shape(options.turns, options.observed, options.sampled))
        for size_mb in options.mb:
            rows += rows_of(size_mb, root / "played", root)
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else shown(rows))
    return int(any(row.peak_mb > options.most_mb for row in rows))


if __name__ == "__main__":
    sys.exit(main())
