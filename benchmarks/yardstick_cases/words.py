"""The task that every trainer runs, and the figures of this process. Imports nothing that a peer may lack."""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import time
from typing import Any

WORDS = ["".join(chr(97 + (i * k) % 26) for k in range(1, 8)) for i in range(400)]


def text(seed: int, count: int) -> str:
    """`count` words, the same for the same seed."""
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(count))


def cpu_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in found)


def peak_gflops(width: int) -> dict[str, float]:
    """GFLOP per CPU second of products of 2,048 rows of this width: the least time of five, by type."""
    import torch  # set up by the case first
    from torch.nn.functional import linear

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(2048, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
        linear(rows, weight)
        times = []
        for _ in range(5):
            started = time.thread_time()
            linear(rows, weight)
            times.append(time.thread_time() - started)
        found[str(dtype).removeprefix("torch.")] = round(2 * 2048 * width**2 / min(times) / 1e9, 1)
    return found


def report(width: int, **values: Any) -> None:
    """Print a cell as the last line of this process."""
    import torch

    conditions = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "gemm_gflops": peak_gflops(width),
    }
    print(json.dumps({**values, **conditions}), flush=True)


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)
