"""How time and memory grow: each size tenfold and a hundredfold, with the exponent.

usage: nice -n 10 python benchmarks/growth.py OUT [--only context vocabulary] [--repeats 3]

An exponent of 1 is as fast as the size; above 1 is where it gets bad. Every cell runs in a process of its own and is a
line of OUT/cells.jsonl: the same command goes on after the last one, and a larger --repeats adds to it. The table has
medians. CPU seconds leave out the start of the process and what the cell prepares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Task

Work = Callable[[], None]


class Talk(ToolEnv):
    """Talks on for as many turns as there are."""

    tasks = Tasks.of(train=[{}])

    def start(self, task: Task) -> str:
        return "Begin."

    def respond(self, text: str) -> str:
        return "Go on."

    def score(self, answer: str | None) -> float:
        return 0.0


class Says(Policy):
    """Says the same in every turn."""

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        return Action("Well.")


def rollouts(episodes: int, turns: int) -> Work:
    """Recorded episodes, 64 at a time."""

    class Shaped(Talk):
        limits = Limits(max_turns=turns)

    async def play(folder: str) -> None:
        with TrajectoryStore(Path(folder) / "trajectories.jsonl") as store:
            async with Rollouts(Shaped, Says(), store=store) as runner:
                async for _ in runner.stream(GroupRequest(Task(str(n)), n) for n in range(episodes)):
                    pass

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(play(folder))

    return work


def sampling(prompt: int, vocabulary: int, hidden: int, sampled: int = 16) -> Work:
    """Four streams of a random Llama with two layers, a prompt each and `sampled` tokens."""
    import torch  # half of the cells need none
    from transformers import LlamaConfig, LlamaForCausalLM

    from agentrl.policy.engine.scheduler import Engine, EngineOptions

    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = max(1, hidden // 32)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=prompt + sampled,
        tie_word_embeddings=True,
    )
    options = EngineOptions(slots=4, context=prompt + sampled)
    engine = Engine(LlamaForCausalLM(config).eval(), stop_ids=frozenset(), decode=lambda ids: "", options=options)
    params = SamplingParams(max_tokens=sampled)

    async def ask() -> None:
        prompts = [[(7 * stream + place) % vocabulary for place in range(prompt)] for stream in range(4)]
        await asyncio.gather(*(engine.sample(str(n), ids, params, n) for n, ids in enumerate(prompts)))

    asyncio.run(ask())  # builds what is built once
    engine.forget()
    return lambda: asyncio.run(ask())


def report(megabytes: int) -> Work:
    """`agentrl report` of a benchmark's store."""
    import store_size  # stands beside this file

    from agentrl.bench.views.report.page import write_bench_report

    root = Path(tempfile.mkdtemp())
    store_size.play(root / "played", store_size.Shape())
    store_size.multiply(root / "played", root / "bench", megabytes * 1_000_000)
    return lambda: print(write_bench_report([root / "bench"], root / "report.html"), file=sys.stderr)


_HIDDEN = {1: 32, 10: 96, 100: 320}  # parameters grow with the square
AXES: dict[str, tuple[str, int, Callable[[int], Work]]] = {
    "episodes": ("episodes of 5 turns", 200, lambda size: rollouts(size, 5)),
    "turns": ("turns of each of 10 episodes", 20, lambda size: rollouts(10, size)),
    "context": ("tokens of a prompt, 4 streams", 64, lambda size: sampling(size, 1_000, 64)),
    "vocabulary": ("tokens in the vocabulary", 1_500, lambda size: sampling(32, size, 64)),
    "model": ("times the smallest model (hidden size 32, 96, 320)", 1, lambda size: sampling(32, 200, _HIDDEN[size])),
    "store": ("MB of a store, reported", 1, report),
}
"""Axis -> what its sizes count, the smallest one, and how a cell is prepared."""


def run_cell(axis: str, factor: int) -> None:
    """Print the CPU seconds and the peak of one cell as JSON."""
    _, smallest, prepare = AXES[axis]
    work = prepare(smallest * factor)
    began = time.process_time()
    work()
    cpu_s = time.process_time() - began
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"axis": axis, "factor": factor, "cpu_s": cpu_s, "peak_mb": peak_kb / 1024}))


def cells(out: Path) -> list[dict[str, Any]]:
    """The finished cells."""
    path = out / "cells.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(out: Path, axes: list[str], repeats: int) -> None:
    """Run what is missing, the repeats outermost, so that all sizes see the same machine."""
    out.mkdir(parents=True, exist_ok=True)
    done = [(cell["axis"], cell["factor"]) for cell in cells(out)]
    for repeat in range(repeats):
        for axis in axes:
            for factor in (1, 10, 100):
                if done.count((axis, factor)) > repeat:
                    continue
                child = [sys.executable, __file__, str(out), "--cell", axis, str(factor)]
                line = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
                with (out / "cells.jsonl").open("a") as file:
                    file.write(line + "\n")
                print(line, file=sys.stderr, flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """The medians and exponents."""
    lines = [
        "| what grows | sizes | CPU seconds | exponent, 1 to 10 | 10 to 100 | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for axis, (counted, smallest, _) in AXES.items():
        own = {f: [c for c in found if (c["axis"], c["factor"]) == (axis, f)] for f in (1, 10, 100)}
        if not all(own.values()):
            continue
        cpu = {f: statistics.median(c["cpu_s"] for c in of) for f, of in own.items()}
        peak = [f"{statistics.median(c['peak_mb'] for c in of):,.0f}" for of in own.values()]
        powers = [math.log10(cpu[10] / cpu[1]), math.log10(cpu[100] / cpu[10])]
        sizes = ", ".join(f"{smallest * f:,}" for f in own)
        times = ", ".join(f"{seconds:.3g}" for seconds in cpu.values())
        lines.append(f"| {counted} | {sizes} | {times} | {powers[0]:.2f} | {powers[1]:.2f} | {', '.join(peak)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cell", nargs=2, metavar=("AXIS", "FACTOR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_cell(options.cell[0], int(options.cell[1]))
        return 0
    measure(options.out, options.only, options.repeats)
    print(table(cells(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
