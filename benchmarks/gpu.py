"""Throughput of engine and learner on a GPU, as a share of what the GPU itself can do.

    python benchmarks/gpu.py --json FILE [--sizes 0.6M,135M,1.7B] [--rounds 3]      one command of benchmarks/gpu.sh

Models of published shapes with random weights. Measured first: products in bfloat16 and float32, and copies of memory.
The engine and `generate` of transformers play one plan of turns, in turns; its lower bound reads all weights once a
round. The learner updates on groups of rows that share a prompt, laid out as a tree and padded; its share is that of
the measured products, at 6 operations a weight and distinct token. Medians, in wall seconds of a synchronised device.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import make_plan, run_generate
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.lines.layouts import Layout
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.rows import Row, with_coefficients
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Engine, EngineOptions

VOCABULARY = 49_152
GROUP, PROMPT, OWN = 8, 256, 256
"""Of the learner's rows: rows that share a prompt, its tokens, and each row's own tokens."""


@dataclass(frozen=True)
class Size:
    """A model's shape: that of the tiny default, SmolLM2-135M and Qwen3-1.7B."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    dtype: torch.dtype

    def model(self, device: str, vocabulary: int) -> Any:
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
        )
        with torch.device(device):
            return Qwen3ForCausalLM(config).to(self.dtype).eval()


SIZES = {
    "0.6M": Size(128, 384, 2, 4, 2, torch.float32),
    "135M": Size(576, 1536, 30, 9, 3, torch.bfloat16),
    "1.7B": Size(2048, 6144, 28, 16, 8, torch.bfloat16),
}


class Device:
    """The device, and seconds on it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wait(self) -> None:
        if self.name.startswith("cuda"):
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int) -> float:
        """Median wall seconds of work that was done once before."""
        taken = []
        for _ in range(rounds):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def peak_gib(self, work: Callable[[], object]) -> float:
        """Most memory that was allocated while it ran."""
        if not self.name.startswith("cuda"):
            work()
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**30

    def limits(self, side: int) -> dict[str, float]:
        """TFLOP/s of square products and TB/s of a copy, read and write counted, on random numbers."""
        found = {}
        for dtype in (torch.bfloat16, torch.float32):
            a, b = (torch.randn(side, side, device=self.name, dtype=dtype) for _ in range(2))
            self.seconds(lambda a=a, b=b: a @ b, 3)
            found[f"{str(dtype)[6:]}_tflops"] = 2 * side**3 / self.seconds(lambda a=a, b=b: a @ b, 10) / 1e12
        source = torch.randn(side * side * 4, device=self.name)
        target = torch.empty_like(source)
        self.seconds(lambda: target.copy_(source), 3)
        found["copy_tb_s"] = 2 * source.nbytes / self.seconds(lambda: target.copy_(source), 10) / 1e12
        return found


def play(engine: Engine, plan: Any) -> int:
    """The plan's episodes by the engine. Returns: rounds that it took."""
    rounds = 0
    step = engine.step

    def counted() -> None:
        nonlocal rounds
        rounds += 1
        step()

    engine.step = counted  # type: ignore[method-assign]

    async def episode(index: int) -> None:
        context = list(plan.prompts[index])
        for length, observation in zip(plan.lengths[index], plan.observations[index], strict=True):
            done = await engine.sample(str(index), context, SamplingParams(temperature=0, max_tokens=length), 0)
            context += [*done.ids, *observation]
        engine.release(str(index))

    async def everybody() -> None:
        await asyncio.gather(*(episode(index) for index in range(len(plan.prompts))))

    asyncio.run(everybody())
    engine.step = step  # type: ignore[method-assign]
    return rounds


def engine_rows(device: Device, model: Any, limits: dict[str, float], rounds: int, episodes: int) -> dict[str, Any]:
    """Tokens a second of the engine, at several concurrencies, and of `generate` at the largest."""
    bytes_of_model = sum(p.numel() * p.element_size() for p in model.parameters())
    found: dict[str, Any] = {}
    for count in (GROUP, episodes):
        plan = make_plan(model.config.vocab_size, episodes=count, group=GROUP, turns=3, seed=0)
        options = EngineOptions(slots=count, context=1024)
        engine = Engine(model, stop_ids=frozenset(), decode=lambda ids: "", options=options)

        def fresh(engine: Engine = engine, plan: Any = plan) -> int:
            engine.kv.clear()
            return play(engine, plan)

        number = fresh()
        seconds = device.seconds(fresh, rounds)
        found[f"engine_{count}"] = {
            "tokens_per_s": plan.sampled / seconds,
            "ms_a_round": 1000 * seconds / number,
            "share_of_weights_bound": number * bytes_of_model / (limits["copy_tb_s"] * 1e12) / seconds,
        }
    with torch.device(device.name):  # make_plan's tensors of `run_generate` are made where the model is
        seconds = device.seconds(lambda: run_generate(model, plan), 1)
    found[f"generate_{count}"] = {"tokens_per_s": plan.sampled / seconds}
    return found


def rows_of(vocabulary: int, groups: int) -> list[Row]:
    """Groups of rows that share a prompt; all tokens after it train."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(groups):
        prompt = rng.integers(16, vocabulary, PROMPT)
        for member in range(GROUP):
            ids = np.concatenate([prompt, rng.integers(16, vocabulary, OWN)])
            number = GROUP * group + member
            columns = {"advantages": float(rng.normal()), "old_logprobs": np.full(len(ids), -np.log(vocabulary))}
            rows.append(Row.of(ids, np.arange(len(ids)) >= PROMPT, trajectory=number, unit=number, **columns))
    return with_coefficients(rows, "token")


def learner_rows(device: Device, model: Any, limits: dict[str, float], rounds: int, groups: int) -> dict[str, Any]:
    """Tokens a second of updates, by layout."""
    weights = sum(p.numel() for p in model.parameters())
    rows = rows_of(model.config.vocab_size, groups)
    half = model.dtype == torch.bfloat16
    peak = limits["bfloat16_tflops" if half else "float32_tflops"] * 1e12
    found: dict[str, Any] = {}
    layouts: Sequence[Layout] = ("tree", "pad")
    for layout in layouts:
        tokens = groups * ((PROMPT + GROUP * OWN) if layout == "tree" else GROUP * (PROMPT + OWN))
        settings = LearnerSettings(lr=1e-9, layout=layout, micro_batch_tokens=16384, measure_share=0.0)
        objective = PPOClip()
        learner = Learner(model, settings, objective)

        def update(learner: Learner = learner, objective: PPOClip = objective) -> object:
            return asyncio.run(learner.update(rows, objective))

        gib = device.peak_gib(update)
        seconds = device.seconds(update, rounds)
        found[f"learner_{layout}"] = {
            "rows_per_s": len(rows) / seconds,
            "tokens_of_rows_per_s": len(rows) * (PROMPT + OWN) / seconds,
            "share_of_products": 6 * weights * tokens / seconds / peak,
            "peak_gib": gib,
        }
        model.zero_grad(set_to_none=True)
        del learner
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--groups", type=int, default=32, help="of the learner's rows")
    parser.add_argument("--side", type=int, default=8192, help="of the measured products")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = Device(given.device)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device,
        "torch": torch.__version__,
        "limits": device.limits(given.side),
    }
    print(json.dumps(found), flush=True)
    for name in given.sizes.split(","):
        vocabulary = 512 if name == "0.6M" else given.vocabulary
        model = SIZES[name].model(device.name, vocabulary)
        found[name] = {"weights_m": sum(p.numel() for p in model.parameters()) / 1e6}
        for rows, size in ((learner_rows, given.groups), (engine_rows, given.episodes)):
            found[name] |= rows(device, model, found["limits"], given.rounds, size)
            print(name, json.dumps(found[name]), flush=True)
            if given.json:
                given.json.write_text(json.dumps(found, indent=1) + "\n")
        del model


if __name__ == "__main__":
    main()
