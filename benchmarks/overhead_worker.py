"""One framework in one process: plays rounds that `overhead.py` asks for on standard input, and times them."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from overhead_cases.task import CONCURRENCY, expected, problems


def main(module: str, run: str, read: str, start: str) -> None:
    """Serve rounds until standard input ends. Each is a line with a number of episodes."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case = importlib.import_module(f"overhead_cases.{module}")
    if start:
        getattr(case, start)()
    other_cpu_s = getattr(case, "other_cpu_s", lambda: 0.0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number, line in enumerate(sys.stdin):
                path = Path(folder) / f"{number}.jsonl"
                answer = _round(getattr(case, run), getattr(case, read) if read else None, other_cpu_s, int(line), path)
                print(json.dumps(answer), file=reply, flush=True)
    finally:
        getattr(case, "close", lambda: None)()


def _round(run: Any, read: Any, other_cpu_s: Any, episodes: int, path: Path) -> dict[str, Any]:
    items = problems(episodes)
    run(items[:CONCURRENCY], path)  # not counted: other processes ran since the last round, so caches are cold
    path.unlink(missing_ok=True)
    gc.collect()
    wall, cpu, other = time.perf_counter(), time.process_time(), other_cpu_s()
    run(items, path)
    cpu = time.process_time() - cpu + other_cpu_s() - other
    wall = time.perf_counter() - wall
    right = read(path) == expected(items) if read is not None else True
    size = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return {"cpu_s": cpu, "wall_s": wall, "right": right, "bytes": size}


if __name__ == "__main__":
    main(*sys.argv[1:5])
