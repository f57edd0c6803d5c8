"""How fast sandboxes are: one-line Python snippets, run in several ways in turn, at several concurrencies.

    python benchmarks/sandbox.py [--seconds 180] [--json out.json]          bubblewrap
    .ci/with-docker python benchmarks/sandbox.py [...]                      bubblewrap and docker

`plain` is what one would write without a sandbox: `subprocess.run([python, "-c", code])` in a thread, with rlimits set
by a shell (`ulimit`; a `preexec_fn` is unsafe and slower). Rounds of all ways alternate, so that other load on the
machine affects all of them. Figures are medians over rounds (per second) or requests (milliseconds). Memory is read
from /proc/PID/smaps_rollup. The last table compares the figures with targets that were set before the sandboxes were
built.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from agentrl.sandbox import SandboxSpec, make_backend

sys.path.insert(0, str(Path(__file__).parent))
import sandbox_docker
import sandbox_floor
from sandbox_docker import Way, in_thread, said

CODE = "print(6 * 7)"
PYTHON = "/usr/bin/python3"
CONCURRENCIES = (1, 8, 32)
REQUESTS = {"plain": 64, "docker run --rm": 4, "docker exec": 16, "bwrap session": 512, "docker session": 512}
"""Requests in a round of all lanes together, but at least one in each lane. A lane sends one request at a time."""
USUAL_REQUESTS = 128
LIMITS = "ulimit -t 11 -d 524288 -f 32768 -n 512; exec "


@dataclass(frozen=True)
class Row:
    """The figures of one way to run a snippet, at one concurrency."""

    way: str
    concurrency: int
    requests: int
    per_s: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Target:
    """A figure and its target."""

    what: str
    figure: float
    bar: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar


def plain() -> bytes:
    """Run the snippet in a process with limits but without isolation."""
    argv = ["/bin/sh", "-c", f'{LIMITS}"$0" -I -c "$1"', PYTHON, CODE]
    return subprocess.run(argv, capture_output=True, timeout=30, env={}, check=False).stdout


async def one_round(way: Way, lanes: int, requests: int) -> tuple[list[float], float]:
    """Run one round; returns the seconds of every request, and of the round."""
    times: list[float] = []

    async def lane(number: int) -> None:
        for _ in range(max(1, requests // lanes)):
            started_s = time.perf_counter()
            answer = await way(number)
            times.append(time.perf_counter() - started_s)
            if answer != "42\n":
                raise RuntimeError(f"a snippet said {answer!r}")

    started_s = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(lanes)))
    return times, time.perf_counter() - started_s


async def speed(ways: dict[str, Way], lanes: int, seconds: float) -> list[Row]:
    """Run rounds of all ways in turn for `seconds`; returns their figures."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        await one_round(way, lanes, 1)
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s or min(map(len, rates.values())) < 3:
        for name, way in ways.items():
            taken, round_s = await one_round(way, lanes, REQUESTS.get(name, USUAL_REQUESTS))
            times[name] += taken
            rates[name].append(len(taken) / round_s)
    rows = []
    for name in ways:
        p50, p95 = median(times[name]) * 1e3, quantiles(times[name], n=20)[18] * 1e3
        rows.append(Row(name, lanes, len(times[name]), median(rates[name]), p50, p95))
    return rows


def proportional_bytes(root: int) -> int:
    """Proportional memory of a process and its descendants."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return total


async def start_beside(resident_bytes: int, count: int) -> float:
    """Median milliseconds to start a sandbox while this process holds `resident_bytes` of memory."""
    block = bytearray(resident_bytes)
    for at in range(0, len(block), 4096):
        block[at] = 1
    times = []
    for _ in range(count):
        started_s = time.perf_counter()
        sandbox = await make_backend("bubblewrap").start(SandboxSpec())
        times.append(time.perf_counter() - started_s)
        await sandbox.close()
    return median(times) * 1e3


def own_children() -> list[int]:
    """Process ids of this process's children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


async def measured(seconds: float) -> tuple[list[Row], float, list[sandbox_floor.Floor]]:
    """All rows, the memory of a bubblewrap sandbox after use, and the kernel's floor between the concurrencies."""
    most = max(CONCURRENCIES)
    async with AsyncExitStack() as stack:
        backend = make_backend("bubblewrap", python=PYTHON)
        boxes = await asyncio.gather(*(backend.start(SandboxSpec()) for _ in range(most)))
        for box in boxes:
            stack.push_async_callback(box.close)
        monitors = own_children()
        pool = stack.enter_context(ThreadPoolExecutor(most))
        ways: dict[str, Way] = {
            "plain": in_thread(pool, plain),
            "bwrap": lambda lane: said(boxes[lane], CODE),
            **await stack.enter_async_context(sandbox_docker.docker_ways(CODE, most, pool)),
        }
        for way in ways.values():
            await one_round(way, most if way is ways["bwrap"] else 1, 1)
        slot_bytes = median(proportional_bytes(pid) for pid in monitors)
        ways["bwrap session"] = lambda lane: said(boxes[lane], CODE, session="s")
        rows, floors = [], [sandbox_floor.measure()]
        for lanes in CONCURRENCIES:
            rows += await speed(ways, lanes, seconds / len(CONCURRENCIES))
            floors.append(sandbox_floor.measure())
    return rows, slot_bytes, [floor for floor in floors if floor is not None]


def targets(rows: list[Row], slot_bytes: float, starts_ms: tuple[float, float]) -> list[Target]:
    """The figures that have a target; those of docker only if it was measured."""
    by = {(row.way, row.concurrency): row for row in rows}
    found = []
    for way, beside, bar in (
        ("bwrap", "docker exec", 10),
        ("docker sandbox", "docker exec", 20),
        ("docker sandbox", "docker run --rm", 80),
        ("bwrap session", "plain", 50),
    ):
        for lanes in CONCURRENCIES:
            if (way, lanes) in by and (beside, lanes) in by:
                ratio = by[way, lanes].per_s / by[beside, lanes].per_s
                found.append(Target(f"{way} / {beside}, {lanes} at once", ratio, bar))
    found.append(Target("bwrap / plain, 8 at once", by["bwrap", 8].per_s / by["plain", 8].per_s, 3))
    for lanes in CONCURRENCIES:
        found.append(Target(f"bwrap session p50 ms, {lanes} at once", by["bwrap session", lanes].p50_ms, 1, False))
    for way in ("bwrap", "docker sandbox"):
        if (way, 32) in by:
            row = by[way, 32]
            found.append(Target(f"{way} p95 / p50, 32 at once", row.p95_ms / row.p50_ms, 3, False))
    found.append(Target("MB of proportional memory per bwrap sandbox", slot_bytes / 1e6, 8, False))
    found.append(Target("start while holding 3 GB / 50 MB", starts_ms[1] / starts_ms[0], 2, False))
    return found


def table(rows: list[Row]) -> str:
    """Figures and ratios as text, one line for each way and concurrency."""
    by = {(row.way, row.concurrency): row for row in rows}
    names = ("plain", "docker exec", "docker run --rm")
    heads = "".join(f"{'x ' + name.removeprefix('docker ').split()[0]:>9}" for name in names)
    lines = [f"{'way':<18}{'at once':>8}{'requests':>10}{'per s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p95/p50':>9}{heads}"]
    for row in rows:
        beside = [by.get((name, row.concurrency)) for name in names]
        ratios = "".join(f"{row.per_s / other.per_s:>9.1f}" if other else f"{'-':>9}" for other in beside)
        lines.append(
            f"{row.way:<18}{row.concurrency:>8}{row.requests:>10}{row.per_s:>9.1f}{row.p50_ms:>9.2f}{row.p95_ms:>9.2f}"
            f"{row.p95_ms / row.p50_ms:>9.1f}{ratios}"
        )
    return "\n".join(lines)


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="duration of the rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, {sys.version.split()[0]}"
    print(f"{machine}; load before {os.getloadavg()[0]:.1f}", flush=True)
    rows, slot_bytes, floors = await measured(options.seconds)
    starts_ms = await start_beside(50 * 10**6, 15), await start_beside(3 * 10**9, 15)
    found = targets(rows, slot_bytes, starts_ms)
    print(table(rows))
    for name in ("fork_ms", "namespaces_ms"):
        figures = ", ".join(f"{getattr(floor, name):.2f}" for floor in floors)
        print(f"floor, one at a time: {name.removesuffix('_ms')} and wait {figures} ms")
    print(f"start while holding 50 MB {starts_ms[0]:.0f} ms, 3 GB {starts_ms[1]:.0f} ms")
    for target in found:
        word = "at least" if target.at_least else "at most"
        print(f"{'met    ' if target.met else 'NOT MET'}  {target.what}: {target.figure:.2f}, {word} {target.bar:g}")
    if options.json:
        report = {"machine": machine, "rows": [asdict(row) for row in rows], "targets": [asdict(t) for t in found]}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
