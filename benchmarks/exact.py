"""What does exact sampling cost, and is it exact? Each run once with exact shapes and once without, in turns.

96 episodes of four turns, half of whose prompts begin alike, at several concurrencies and with too few slots. Printed:
how many episodes have the same bits as those sampled one at a time, and the ratio of CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/exact.py [--rounds 5] [--hidden 128] [--dtype float32]
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Engine, EngineOptions
from agentrl.policy.tiny import build_tiny

EPISODES, TURNS, TOKENS, CONTEXT = 96, 4, 24, 1024
# Episodes at once, and slots.
SETTINGS = ((1, 64), (7, 64), (64, 64), (256, 64), (64, 5))
Bits = list[tuple[tuple[int, ...], tuple[float, ...]]]


@dataclass(frozen=True)
class Sampled:
    """All episodes of one run, and its CPU seconds."""

    episodes: list[Bits]
    cpu_s: float


async def _episode(engine: Engine, number: int, gate: asyncio.Semaphore, temperature: float) -> Bits:
    rng = np.random.default_rng(number % 7 if number % 2 else number)
    most = engine.model.config.vocab_size
    context = rng.integers(9, most, int(rng.integers(20, 300))).tolist()
    seen: Bits = []
    async with gate:
        for turn in range(TURNS):
            await asyncio.sleep(0)
            sampling = SamplingParams(temperature, max_tokens=TOKENS)
            done = await engine.sample(f"e{number}", context, sampling, seed=100 * number + turn)
            seen.append((done.ids, done.logprobs))
            more = np.random.default_rng((number, turn)).integers(9, most, 40)
            context = [*context, *done.ids, *more.tolist()]
        engine.release(f"e{number}")
    return seen


async def _sample(model: Any, tokenizer: Any, setting: tuple[int, int], temperature: float, exact: bool) -> Sampled:
    concurrency, slots = setting
    options = EngineOptions(slots=slots, context=CONTEXT, exact=exact)
    engine = Engine(model, stop_ids=frozenset(), decode=tokenizer.decode, options=options)
    gate, started = asyncio.Semaphore(concurrency), time.process_time()
    episodes = await asyncio.gather(*(_episode(engine, number, gate, temperature) for number in range(EPISODES)))
    return Sampled(episodes, time.process_time() - started)


def _equal(one: Sampled, other: Sampled) -> int:
    return sum(a == b for a, b in zip(one.episodes, other.episodes, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    given = parser.parse_args()
    texts = [f"item {number} costs {number * 7} cents in shop {number % 9}" for number in range(400)]
    model, tokenizer = build_tiny(texts, seed=0, vocab_size=512, hidden_size=given.hidden)
    model = model.to(getattr(torch, given.dtype))
    size = sum(p.numel() for p in model.parameters())
    print(f"{size / 1e6:.2f}M parameters, {given.dtype}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{platform.processor() or platform.machine()}, {given.rounds} rounds, medians")
    for temperature in (1.0, 2.5):
        alone = {exact: asyncio.run(_sample(model, tokenizer, (1, 64), temperature, exact)) for exact in (True, False)}
        for setting in SETTINGS:
            seconds: dict[bool, list[float]] = {True: [], False: []}
            equal = {True: EPISODES, False: EPISODES}
            for _ in range(given.rounds):
                for exact in (True, False):
                    found = asyncio.run(_sample(model, tokenizer, setting, temperature, exact))
                    seconds[exact].append(found.cpu_s)
                    equal[exact] = min(equal[exact], _equal(found, alone[exact]))
            ratio = statistics.median(a / b for a, b in zip(seconds[True], seconds[False], strict=True))
            print(
                f"temperature {temperature}, {setting[0]:3} at once, {setting[1]:2} slots: "
                f"bit-equal: exact {equal[True]}, otherwise {equal[False]} of {EPISODES}; "
                f"CPU: exact {statistics.median(seconds[True]):.2f} s, "
                f"otherwise {statistics.median(seconds[False]):.2f} s, ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
