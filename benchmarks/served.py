"""CPU time per step of a served environment over loopback, client and server together, against the bare loop.

    .venv/bin/python benchmarks/served.py [--rounds 7] [--episodes 448]

The task is that of benchmarks/overhead.py: 7 steps an episode, 64 episodes at a time, recorded. The server is a
process of its own. Rounds of the bare loop, of the environment in this process and of the served one take turns; the
first round warms up. CPU is user and system time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from overhead_cases import agentrl_case, bare  # noqa: E402
from overhead_cases.task import CONCURRENCY, STEPS_PER_EPISODE, expected, problems  # noqa: E402

from agentrl.rollout.requests import GroupRequest  # noqa: E402
from agentrl.rollout.runner import Rollouts  # noqa: E402
from agentrl.rollout.store import TrajectoryStore  # noqa: E402
from agentrl.serving.envs.client import connect  # noqa: E402
from agentrl.serving.envs.server import EnvServer, ServeOptions  # noqa: E402
from agentrl.trajectory import EnvRef  # noqa: E402

_TICKS = os.sysconf("SC_CLK_TCK")
_SERVER = "--serve"


def serve() -> None:
    """The server's process."""
    ref = EnvRef(f"{HERE / 'overhead_cases' / 'agentrl_case.py'}:Ledger")
    with EnvServer(ref, ServeOptions(port=0, token="benchmark", takes_any_task=True)) as server:
        print(server.url, flush=True)
        sys.stdin.readline()


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def play_rollouts(env: Any, items: Any, path: Path) -> None:
    """64 episodes at a time, every trajectory stored."""

    async def main() -> None:
        with TrajectoryStore(path) as store:
            policy = agentrl_case.Scripted(items)
            async with Rollouts(env, policy, store=store, max_concurrency=CONCURRENCY, max_attempts=1) as rollouts:
                await rollouts.run([GroupRequest(agentrl_case._task(p), p.id, 1, str(p.id)) for p in items])

    asyncio.run(main())


def measured(play: Callable[[Any, Path], None], items: Any, server: int | None) -> float:
    """Microseconds of CPU a step. Raises: RuntimeError if something else was recorded than expected."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episodes.jsonl"
        before = time.process_time() + (0.0 if server is None else cpu_of(server))
        play(items, path)
        after = time.process_time() + (0.0 if server is None else cpu_of(server))
        read = bare.read if play is bare.run else agentrl_case.read
        if read(path) != expected(items):
            raise RuntimeError("other results or rewards were recorded than expected")
    return 1e6 * (after - before) / (len(items) * STEPS_PER_EPISODE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=448)
    options = parser.parse_args()
    items = problems(options.episodes)
    command = [sys.executable, __file__, _SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        cases: dict[str, tuple[Callable[[Any, Path], None], int | None]] = {
            "bare loop": (bare.run, None),
            "in this process": (lambda i, path: play_rollouts(agentrl_case.Ledger, i, path), None),
            "served": (lambda i, path: play_rollouts(lambda: connect(url, "benchmark"), i, path), server.pid),
        }
        seen: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(options.rounds + 1):
            for name, (play, pid) in cases.items():
                found = measured(play, items, pid)
                if number:
                    seen[name].append(found)
        server.communicate("\n")
    print("| environment | µs/step | min–max | × bare |\n|---|---:|---:|---:|")
    for name, times in seen.items():
        ratio = statistics.median(t / b for t, b in zip(times, seen["bare loop"], strict=True))
        print(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f}–{max(times):.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    serve() if _SERVER in sys.argv else main()
