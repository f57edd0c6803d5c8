"""One harness in one process, for `harness_overhead.py`: plays two sizes after a warm-up, and prints CPU and checks."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness_cases.played import Setting
from overhead_cases.task import STEPS_PER_EPISODE, expected, problems


def cpu_s() -> float:
    """User and system time of this process, its threads, and its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def play(case: Any, episodes: int, setting: Setting) -> dict[str, Any]:
    """One size. Raises: RuntimeError if other turns were played, or other scores or results recorded, than expected."""
    items = problems(episodes)
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        wall, cpu = time.perf_counter(), cpu_s()
        ran = case.run(items, Path(folder), setting)
        cpu, wall = cpu_s() - cpu, time.perf_counter() - wall
        played = case.read(ran, Path(folder), setting)
    turns = episodes * STEPS_PER_EPISODE
    if played.turns != turns or played.score not in (1.0, None):
        raise RuntimeError(f"{played.turns} turns with a mean score of {played.score}; expected {turns} and 1.0")
    if setting.recorded and played.outcomes != expected(items):
        raise RuntimeError("the records hold other scores or tool results than expected")
    return {"episodes": episodes, "turns": turns, "cpu_s": cpu, "wall_s": wall, "bytes": played.record_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("package")
    parser.add_argument("--sizes", type=int, nargs=2, required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--unrecorded", action="store_true")
    given = parser.parse_args()
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case = importlib.import_module(f"harness_cases.{given.module}")
    setting = Setting(not given.unrecorded, given.concurrency)
    play(case, given.sizes[0], setting)  # warms up
    small, large = (play(case, size, setting) for size in given.sizes)
    found = {"small": small, "large": large, "version": version(given.package), "python": sys.version.split()[0]}
    steps = large["turns"] - small["turns"]
    found["us_per_step"] = 1e6 * (large["cpu_s"] - small["cpu_s"]) / steps
    found["wall_us_per_step"] = 1e6 * (large["wall_s"] - small["wall_s"]) / steps
    found["bytes_per_episode"] = (large["bytes"] - small["bytes"]) / (large["episodes"] - small["episodes"])
    print(json.dumps(found), file=reply, flush=True)


if __name__ == "__main__":
    main()
