"""What an update by Muon costs with products in bfloat16, as torch makes them, and in float32.

    python benchmarks/muon.py [--widths 128,576] [--rounds 5]

Each row is one layer of a transformer of that width: four matrices of attention and three of the MLP. CPU time of the
thread, the least of some rounds in turns, one torch thread.
"""

from __future__ import annotations

import argparse
import time

import torch

from agentrl.learning.optimizers import Float32Muon, emulates_bfloat16

KINDS = {"bfloat16": torch.optim.Muon, "float32": Float32Muon}


def layer(width: int) -> list[torch.nn.Parameter]:
    """The matrices of a layer, with gradients."""
    torch.manual_seed(0)
    shapes = [(width, width)] * 2 + [(width // 2, width)] * 2 + [(3 * width, width)] * 2 + [(width, 3 * width)]
    found = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for matrix in found:
        matrix.grad = torch.randn_like(matrix)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="128,576")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"products in bfloat16 are {'emulated' if emulates_bfloat16(torch.device('cpu')) else 'made by the CPU'}")
    print("| width | bfloat16 ms | float32 ms | ratio |\n|---|---|---|---|")
    for width in map(int, given.widths.split(",")):
        optimizers = {name: kind(layer(width), lr=0.01) for name, kind in KINDS.items()}
        least = dict.fromkeys(KINDS, float("inf"))
        for _ in range(1 + given.rounds):  # the first prepares the products for their shapes
            for name, optimizer in optimizers.items():
                started = time.thread_time()
                optimizer.step()
                least[name] = min(least[name], time.thread_time() - started)
        half, full = least["bfloat16"], least["float32"]
        print(f"| {width} | {1e3 * half:.1f} | {1e3 * full:.1f} | {half / full:.1f} |", flush=True)


if __name__ == "__main__":
    main()
