"""How fast sandboxes are: one-line Python snippets, ways interleaved, at several concurrencies.

    python benchmarks/sandbox.py [--seconds 60] [--json out.json]

`plain` is what one would write without a sandbox: `subprocess.run([python, "-c", code])` with rlimits set by a shell
(`ulimit`; a `preexec_fn` is unsafe and slower), in a thread. Every way runs the system's Python. Rounds of all ways
alternate, so that load on the machine meets all of them. Memory is what /proc/PID/smaps_rollup says.
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
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from agentrl.sandbox import Sandbox, SandboxSpec, make_backend

CODE = "print(6 * 7)"
PYTHON = "/usr/bin/python3"
CONCURRENCIES = (1, 8, 32)
ROUND = 64
LIMITS = "ulimit -t 11 -d 524288 -f 32768 -n 512; exec "
Way = Callable[[int], Awaitable[str]]


@dataclass(frozen=True)
class Row:
    """Figures of one way at one concurrency."""

    way: str
    concurrency: int
    requests: int
    per_s: float
    p50_ms: float
    p95_ms: float


def plain(pool: ThreadPoolExecutor) -> Way:
    """A process per snippet, with limits but without walls."""

    def run() -> str:
        argv = ["/bin/sh", "-c", f'{LIMITS}"$0" -I -c "$1"', PYTHON, CODE]
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, env={}, check=False).stdout

    async def way(_: int) -> str:
        return await asyncio.get_running_loop().run_in_executor(pool, run)

    return way


def fresh(sandboxes: list[Sandbox]) -> Way:
    """A fresh process in fresh namespaces per snippet, a sandbox per lane."""

    async def way(lane: int) -> str:
        return (await sandboxes[lane].run_python(CODE)).text

    return way


def session(sandboxes: list[Sandbox]) -> Way:
    """A stateful session per lane."""

    async def way(lane: int) -> str:
        return (await sandboxes[lane].run_python(CODE, session="s")).text

    return way


async def one_round(way: Way, concurrency: int) -> tuple[list[float], float]:
    """Seconds of every request, and of the round."""
    times: list[float] = []

    async def lane(number: int) -> None:
        for _ in range(max(1, ROUND // concurrency)):
            started_s = time.perf_counter()
            said = await way(number)
            times.append(time.perf_counter() - started_s)
            if said != "42\n":
                raise RuntimeError(f"a snippet said {said!r}")

    started_s = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(concurrency)))
    return times, time.perf_counter() - started_s


async def speed(ways: dict[str, Way], seconds: float) -> list[Row]:
    """Rounds of all ways in turn, at each concurrency."""
    rows = []
    for concurrency in CONCURRENCIES:
        times: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            await one_round(way, concurrency)
        ends_s = time.perf_counter() + seconds / len(CONCURRENCIES)
        while time.perf_counter() < ends_s:
            for name, way in ways.items():
                taken, round_s = await one_round(way, concurrency)
                times[name] += taken
                spent[name].append(len(taken) / round_s)
        for name in ways:
            cuts = quantiles(times[name], n=20)
            p50, p95 = median(times[name]) * 1e3, cuts[18] * 1e3
            rows.append(Row(name, concurrency, len(times[name]), median(spent[name]), p50, p95))
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
    """Median milliseconds to start a sandbox while this process holds so much memory."""
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
    """Processes that this one has started."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for the interleaved rounds")
    parser.add_argument("--resident-gb", type=float, default=3, help="memory that this process holds at the end")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    backend = make_backend("bubblewrap", python=PYTHON)
    sandboxes = await asyncio.gather(*(backend.start(SandboxSpec()) for _ in range(max(CONCURRENCIES))))
    slot_bytes = median(proportional_bytes(pid) for pid in own_children())
    try:
        with ThreadPoolExecutor(max(CONCURRENCIES)) as pool:
            ways = {"plain": plain(pool), "bwrap": fresh(sandboxes), "bwrap session": session(sandboxes)}
            rows = await speed(ways, options.seconds)
    finally:
        await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))
    small_ms = await start_beside(50 * 10**6, 15)
    large_ms = await start_beside(int(options.resident_gb * 10**9), 15)
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "load": os.getloadavg()[0],
        "rows": [asdict(row) for row in rows],
        "slot_bytes": slot_bytes,
        "start_ms_at_50_mb": small_ms,
        f"start_ms_at_{options.resident_gb:g}_gb": large_ms,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    print(f"{report['machine']}; load {report['load']:.1f}; {sys.version.split()[0]}")
    base = {row.concurrency: row for row in rows if row.way == "plain"}
    print(
        f"{'way':<14}{'at once':>8}{'requests':>10}{'per s':>9}{'p50 ms':>9}{'p95 ms':>9}{'x plain':>9}{'p95/p50':>9}"
    )
    for row in rows:
        faster = row.per_s / base[row.concurrency].per_s
        print(
            f"{row.way:<14}{row.concurrency:>8}{row.requests:>10}{row.per_s:>9.0f}{row.p50_ms:>9.2f}{row.p95_ms:>9.2f}"
            f"{faster:>9.1f}{row.p95_ms / row.p50_ms:>9.1f}"
        )
    print(f"proportional memory per slot: {slot_bytes / 1e6:.1f} MB")
    print(f"start: {small_ms:.0f} ms beside 50 MB, {large_ms:.0f} ms beside {options.resident_gb:g} GB")


if __name__ == "__main__":
    asyncio.run(main())
