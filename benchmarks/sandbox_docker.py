"""How fast the docker sandbox is beside `docker exec` and `docker run`, all through the daemon's own interface.

    python benchmarks/sandbox_docker.py [--seconds 60] [--concurrency 1 8] [--json out.json]

Ways alternate in rounds, each round a few requests long, so that load on the machine meets all of them.
`docker exec` and `docker run` start a new interpreter in a container of the same image without further limits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import docker

from agentrl.sandbox import SandboxSpec
from agentrl.sandbox.docker import IMAGE, Docker

CODE = "print(6 * 7)"
REQUESTS = {"docker run --rm": 1, "docker exec": 2, "sandbox": 16, "sandbox over stdio": 16, "session": 64}
"""Requests per lane and round."""


def by_exec(client: docker.DockerClient, container: str) -> Callable[[], bytes]:
    """A program in a container that runs already."""

    def run() -> bytes:
        started = client.api.exec_create(container, ["python3", "-I", "-c", CODE])
        return client.api.exec_start(started["Id"])

    return run


def by_run(client: docker.DockerClient) -> Callable[[], bytes]:
    """A container per program."""
    return lambda: client.containers.run(IMAGE, ["python3", "-I", "-c", CODE], remove=True, network_mode="none")


async def one_round(way, lanes: int, requests: int) -> tuple[list[float], float]:
    """Seconds of every request, and requests a second."""
    times: list[float] = []

    async def lane(number: int) -> None:
        for _ in range(requests):
            started_s = time.perf_counter()
            said = await way(number)
            times.append(time.perf_counter() - started_s)
            if said != b"42\n":
                raise RuntimeError(f"a snippet said {said!r}")

    started_s = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(lanes)))
    return times, len(times) / (time.perf_counter() - started_s)


async def measure(ways: dict, lanes: int, seconds: float) -> list[dict]:
    """A row per way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        await one_round(way, lanes, 1)
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s or min(map(len, rates.values())) < 2:
        for name, way in ways.items():
            taken, rate = await one_round(way, lanes, REQUESTS[name])
            times[name] += taken
            rates[name].append(rate)
    return [
        {
            "way": name,
            "concurrency": lanes,
            "requests": len(times[name]),
            "per_s": median(rates[name]),
            "p50_ms": median(times[name]) * 1e3,
            "p95_ms": quantiles(times[name], n=20)[18] * 1e3,
        }
        for name in ways
    ]


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    most = max(options.concurrency)
    client = docker.DockerClient.from_env(version="auto", max_pool_size=most + 4)
    beside = client.containers.run(IMAGE, ["sleep", "100000"], detach=True, remove=True, network_mode="none")
    boxes = await asyncio.gather(*(Docker().start(SandboxSpec()) for _ in range(most)))
    slow_boxes = await asyncio.gather(*(Docker(transport="stdio").start(SandboxSpec()) for _ in range(most)))
    loop = asyncio.get_running_loop()
    try:
        with ThreadPoolExecutor(most) as pool:
            run, execute = by_run(client), by_exec(client, beside.id)

            async def sandbox(lane: int) -> bytes:
                return (await boxes[lane].run_python(CODE)).stdout

            async def over_stdio(lane: int) -> bytes:
                return (await slow_boxes[lane].run_python(CODE)).stdout

            async def session(lane: int) -> bytes:
                return (await boxes[lane].run_python(CODE, session="s")).stdout

            ways = {
                "docker run --rm": lambda lane: loop.run_in_executor(pool, run),
                "docker exec": lambda lane: loop.run_in_executor(pool, execute),
                "sandbox": sandbox,
                "sandbox over stdio": over_stdio,
                "session": session,
            }
            each_s = options.seconds / len(options.concurrency)
            rows = [row for lanes in options.concurrency for row in await measure(ways, lanes, each_s)]
    finally:
        await asyncio.gather(*(box.close() for box in (*boxes, *slow_boxes)))
        beside.remove(force=True)
        client.close()
    report(rows, options.json)


def report(rows: list[dict], path: Path | None) -> None:
    """Print the table, and write it where asked."""
    if path:
        path.write_text(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows}, indent=1))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'way':<20}{'at once':>8}{'requests':>10}{'per s':>9}{'p50 ms':>9}{'p95 ms':>9}{'x exec':>8}{'x run':>8}")
    for row in rows:
        base = {other["way"]: other["per_s"] for other in rows if other["concurrency"] == row["concurrency"]}
        print(
            f"{row['way']:<20}{row['concurrency']:>8}{row['requests']:>10}{row['per_s']:>9.1f}{row['p50_ms']:>9.2f}"
            f"{row['p95_ms']:>9.2f}{row['per_s'] / base['docker exec']:>8.1f}"
            f"{row['per_s'] / base['docker run --rm']:>8.1f}"
        )


if __name__ == "__main__":
    asyncio.run(main())
