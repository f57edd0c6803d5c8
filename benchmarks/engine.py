"""The embedded engine against `model.generate` with re-prefill per turn, and continuous batching in transformers.

Same weights, same greedy decoding, same token plan: groups of episodes that share a prompt, several turns
each, turn lengths and observation lengths drawn once. First the three are checked against each other; then
they run interleaved, and medians and ratios are printed. Times are CPU seconds of this process.

    python benchmarks/engine.py [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Engine, EngineOptions
from agentrl.policy.tiny import build_tiny

Context = list[int]
FIRST_ID = 16  # ids below are special tokens
# -1 as the end-of-sequence id below: no token ends a turn, so that each is as long as the plan says.


@dataclass(frozen=True)
class Plan:
    """What every contestant does.

    Attributes:
        prompts: (E,) ids of the first turn; the members of a group share them.
        lengths: (E, T) tokens to sample at each turn.
        observations: (E, T) ids appended after each turn.
    """

    prompts: list[Context]
    lengths: list[list[int]]
    observations: list[list[Context]]

    @property
    def turns(self) -> int:
        return len(self.lengths[0])

    @property
    def sampled(self) -> int:
        return sum(map(sum, self.lengths))


def make_plan(vocab: int, *, episodes: int, group: int, turns: int, seed: int) -> Plan:
    """Tool-use lengths: prompts of 60-120 tokens, turns of 8-40 (mostly short), observations of 5-25."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> Context:
        return [int(i) for i in rng.integers(FIRST_ID, vocab, rng.integers(low, high + 1))]

    firsts = [ids(60, 120) for _ in range(episodes // group)]
    return Plan(
        [firsts[i // group] for i in range(episodes)],
        [[8 + min(32, int(rng.geometric(1 / 12))) for _ in range(turns)] for _ in range(episodes)],
        [[ids(5, 25) for _ in range(turns)] for _ in range(episodes)],
    )


def make_engine(model: Any, slots: int, exact: bool | None = None) -> Engine:
    """An engine for a plan's sizes, by default as exact as it can be."""
    options = EngineOptions(slots=slots, context=1024, exact=exact)
    return Engine(model, stop_ids=frozenset(), decode=lambda ids: "", options=options)


def run_engine(model: Any, plan: Plan, slots: int) -> list[Context]:
    """The embedded engine, made anew: episodes advance on their own, their keys and values stay."""
    return play(make_engine(model, slots), plan)


def play(engine: Engine, plan: Plan) -> list[Context]:
    """A plan on an engine."""

    async def episode(index: int) -> Context:
        context = list(plan.prompts[index])
        for length, observation in zip(plan.lengths[index], plan.observations[index], strict=True):
            greedy = SamplingParams(temperature=0, max_tokens=length)
            done = await engine.sample(str(index), context, greedy, 0)
            context += [*done.ids, *observation]
        engine.release(str(index))
        return context

    async def main() -> list[Context]:
        return await asyncio.gather(*(episode(i) for i in range(len(plan.prompts))))

    return asyncio.run(main())


class _PlannedLengths(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch at its own length."""

    def __init__(self, start: int, lengths: Sequence[int]) -> None:
        self.ends = torch.tensor([start + length for length in lengths])

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return self.ends <= input_ids.shape[1]


def run_generate(model: Any, plan: Plan) -> list[Context]:
    """`model.generate`, one batch per turn, every context prefilled again."""
    contexts = [list(prompt) for prompt in plan.prompts]
    for turn in range(plan.turns):
        width = max(map(len, contexts))
        batch = torch.zeros((len(contexts), width), dtype=torch.long)
        mask = torch.zeros_like(batch)
        for row, context in enumerate(contexts):
            batch[row, width - len(context) :] = torch.tensor(context)
            mask[row, width - len(context) :] = 1
        lengths = [row[turn] for row in plan.lengths]
        output = model.generate(
            batch,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=max(lengths), pad_token_id=0, eos_token_id=-1
            ),
            stopping_criteria=StoppingCriteriaList([_PlannedLengths(width, lengths)]),
        )
        for row, context in enumerate(contexts):
            context += [*output[row, width : width + lengths[row]].tolist(), *plan.observations[row][turn]]
    return contexts


# Fastest of 15 settings tried on 2 cores: its attention on a CPU is dense over all requests of a batch and all pages.
SIZED = {"page_size": 16, "num_blocks": 1536, "max_batch_tokens": 32}


def run_continuous(model: Any, plan: Plan, sizes: Mapping[str, int]) -> list[Context]:
    """Continuous batching of `transformers`: one manager, each turn a request when the one before is done."""
    config = GenerationConfig(do_sample=False, max_new_tokens=64, pad_token_id=0, eos_token_id=-1)
    contexts = [list(prompt) for prompt in plan.prompts]
    turn = [0] * len(contexts)
    manager = model.init_continuous_batching(
        generation_config=config, continuous_batching_config=ContinuousBatchingConfig(**sizes)
    )
    manager.start()
    try:
        for index, context in enumerate(contexts):
            manager.add_request(context, request_id=f"{index}/0", max_new_tokens=plan.lengths[index][0])
        left = len(contexts) * plan.turns
        while left:
            result = manager.get_result(timeout=60)
            if result is None or not result.is_finished():
                if not manager.is_running():
                    raise RuntimeError(f"the manager of continuous batching stopped: {manager.fatal_error}")
                continue
            left -= 1
            index = int(result.request_id.split("/")[0])
            contexts[index] += [*result.generated_tokens, *plan.observations[index][turn[index]]]
            turn[index] += 1
            if turn[index] < plan.turns:
                length = plan.lengths[index][turn[index]]
                manager.add_request(contexts[index], request_id=f"{index}/{turn[index]}", max_new_tokens=length)
    finally:
        manager.stop(block=True)
    return contexts


def agreement(a: list[Context], b: list[Context]) -> float:
    """Share of episodes with the same ids throughout."""
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def measure(contestants: dict[str, Callable[[], list[Context]]], rounds: int) -> dict[str, dict[str, float]]:
    """Interleaved rounds; medians of CPU and wall seconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {"cpu_s": statistics.median(t[0] for t in taken), "wall_s": statistics.median(t[1] for t in taken)}
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-continuous", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    words = ["".join(chr(97 + (i * k) % 26) for k in range(1, 8)) for i in range(400)]
    model, _ = build_tiny([" ".join(words)] * 4, hidden_size=options.hidden)
    plan = make_plan(
        model.config.vocab_size, episodes=options.episodes, group=options.group, turns=options.turns, seed=0
    )
    contestants: dict[str, Callable[[], list[Context]]] = {
        "engine": lambda: run_engine(model, plan, options.slots),
        "generate": lambda: run_generate(model, plan),
    }
    if not options.skip_continuous:
        contestants["continuous"] = lambda: run_continuous(model, plan, SIZED)
        contestants["its defaults"] = lambda: run_continuous(model, plan, {})
    reference = contestants["generate"]()
    agree = {name: agreement(reference, run()) for name, run in contestants.items()}
    times = measure(contestants, options.rounds)
    for name, row in times.items():
        row["tokens_per_cpu_s"] = plan.sampled / row["cpu_s"]
        row["engine_ratio"] = row["cpu_s"] / times["engine"]["cpu_s"]
        row["same_ids_as_generate"] = agree[name]
    if options.json:
        print(json.dumps({"options": vars(options), "sampled_tokens": plan.sampled, "results": times}))
        return
    size = f"{options.episodes} episodes x {options.turns} turns, hidden {options.hidden}"
    print(f"{plan.sampled} sampled tokens, {size}")
    print(f"{'':12} {'CPU s':>8} {'wall s':>8} {'tok/CPU s':>10} {'engine is':>10} {'same ids':>9}")
    for name, row in times.items():
        print(
            f"{name:12} {row['cpu_s']:8.2f} {row['wall_s']:8.2f} {row['tokens_per_cpu_s']:10.0f} "
            f"{row['engine_ratio']:9.2f}x {row['same_ids_as_generate']:9.0%}"
        )


if __name__ == "__main__":
    main()
