"""Seconds that weights take from the trainer to samplers on Ray: into the object store, and onto each actor.

    VENV/bin/python benchmarks/ray_broadcast.py [--millions 10,100] [--actors 1,2]      VENV has agentrl[ray]

Local Ray on this machine. Each actor does what a sampler's does: it takes the bytes, puts them into unnamed memory, and
a reader copies them into tensors. Medians; a plain copy of as many bytes is timed too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from typing import Any

import ray
import torch

from agentrl.distributed.shared import Packed, packed_bytes, unpacked


class Taker:
    """Takes weights as an actor and its sampling process do."""

    def take(self, values: bytes) -> int:
        packed = Packed.of(values)
        found = unpacked(packed.fileno())
        packed.close()
        return sum(tensor.numel() for tensor in found.values())


def measure(millions: int, actors: list[Any], repeats: int) -> dict[str, float]:
    """Medians of the parts, in seconds."""
    count = 10
    weights = {str(n): torch.randn(millions * 1_000_000 // count) for n in range(count)}
    taken: dict[str, list[float]] = {"copy": [], "store": [], "taken": []}
    for _ in range(repeats):
        marks = [time.perf_counter()]
        copied = [tensor.clone() for tensor in weights.values()]
        marks.append(time.perf_counter())
        reference = ray.put(packed_bytes(weights))
        marks.append(time.perf_counter())
        got = ray.get([actor.take.remote(reference) for actor in actors])
        marks.append(time.perf_counter())
        assert set(got) == {sum(tensor.numel() for tensor in copied)}
        for name, (since, until) in zip(taken, itertools.pairwise(marks), strict=True):
            taken[name].append(until - since)
        del reference, copied
    return {name: round(statistics.median(times), 3) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", default="10,100", help="float32 parameters")
    parser.add_argument("--actors", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    started = time.perf_counter()
    ray.init(include_dashboard=False, num_cpus=4, logging_level="ERROR")
    print(
        json.dumps(
            {"ray": ray.__version__, "init_s": round(time.perf_counter() - started, 1), "load": os.getloadavg()[0]}
        )
    )
    for number in map(int, given.actors.split(",")):
        actors = [ray.remote(Taker).remote() for _ in range(number)]
        ray.get([actor.take.remote(packed_bytes({"a": torch.zeros(1)})) for actor in actors])
        for millions in map(int, given.millions.split(",")):
            row = {"actors": number, "millions": millions, **measure(millions, actors, given.repeats)}
            print(json.dumps(row), flush=True)
        for actor in actors:
            ray.kill(actor)


if __name__ == "__main__":
    main()
