"""Sampling in other processes: training steps per minute in one process, and with samplers, at several lags.

usage: python benchmarks/samplers.py [--repeats 3] [--steps 8] [--wait-ms 0,150] [--json]

A tiny model is warmed up on a shop API once. Every variant then trains from it on the same tasks, all of them in turn,
`--repeats` times: one process, and one or two samplers at lag 0, 1 and 2. With a wait every turn of an environment
takes that much longer without using a core, as a remote tool would. The first step, in which samplers start, counts
for the CPU seconds (of all processes) alone. A time is the median over the repeats, and a ratio the median of the
ratios to one process of the same repeat. The load is printed: on busy cores two samplers gain nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agentrl.env.base import StepResult
from agentrl.environments.shop import Shop
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train


class WaitingShop(Shop):
    """The shop behind a slow network. Args: wait_s: seconds of each turn."""

    def __init__(self, wait_s: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._wait_s = wait_s

    async def astep(self, action: Any) -> StepResult:
        if self._wait_s:
            await asyncio.sleep(self._wait_s)
        return await super().astep(action)


@dataclass(frozen=True)
class Variant:
    """How a run samples."""

    samplers: int
    max_lag: int

    def __str__(self) -> str:
        return f"{self.samplers} samplers, lag {self.max_lag}" if self.samplers else "one process"


VARIANTS = (Variant(0, 0), Variant(2, 0), Variant(1, 1), Variant(2, 1), Variant(2, 2))
ENV = f"{Path(__file__).resolve()}:WaitingShop"
RUN = RunConfig(evaluate_every=0, tensorboard=False, checkpoint_seconds=0)


def warmed_up(folder: Path) -> ModelConfig:
    """A model that buys something."""
    stage = Supervise({"oracle": 0.25, "hasty": 0.75}, num_episodes=1500, epochs=1)
    train(TrainConfig(EnvConfig(ENV), stages={"warm": stage}, run=RUN), folder)
    return ModelConfig(path=str(folder / "model"))


@dataclass(frozen=True)
class Taken:
    """What a step of a run took, and how old its oldest token was."""

    wall_s: float
    cpu_s: float
    lag: float


def run_once(variant: Variant, model: ModelConfig, wait_s: float, steps: int) -> Taken:
    """Train, and read what the steps took from the run's own records."""
    stage = Reinforce(steps=steps, playing=Playing(max_lag=variant.max_lag), checkpoint_every=10 * steps)
    config = TrainConfig(
        EnvConfig(ENV, kwargs={"wait_s": wait_s}),
        model=model,
        stages={"rl": stage},
        run=RUN,
        scale=ScaleConfig(samplers=variant.samplers),
    )
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        summary = train(config, run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wall_s = (lines[-1]["time_s"] - lines[0]["time_s"]) / (steps - 1)
    return Taken(wall_s, summary["cpu_s"] / steps, max(line["rollout/lag_max"] for line in lines))


def measure(waits_s: list[float], repeats: int, steps: int) -> list[dict[str, Any]]:
    """One row for each wait and variant."""
    rows = []
    with TemporaryDirectory() as folder:
        model = warmed_up(Path(folder) / "warm")
        for wait_s in waits_s:
            taken: dict[Variant, list[Taken]] = {variant: [] for variant in VARIANTS}
            for _ in range(repeats):
                for variant in VARIANTS:
                    taken[variant].append(run_once(variant, model, wait_s, steps))
            rows += [row_of(variant, wait_s, taken) for variant in VARIANTS]
    return rows


def row_of(variant: Variant, wait_s: float, taken: Mapping[Variant, list[Taken]]) -> dict[str, Any]:
    """Medians of a variant, and its ratio to one process."""
    ratios = [one.wall_s / own.wall_s for one, own in zip(taken[VARIANTS[0]], taken[variant], strict=True)]
    return {
        "wait_s": wait_s,
        "variant": str(variant),
        "step_s": statistics.median(one.wall_s for one in taken[variant]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_s": statistics.median(one.cpu_s for one in taken[variant]),
        "lag_max": max(one.lag for one in taken[variant]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps of each run, at least 2")
    parser.add_argument("--wait-ms", default="0,150", help="extra milliseconds of each turn; several, by commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    rows = measure([float(ms) / 1000 for ms in arguments.wait_ms.split(",")], arguments.repeats, arguments.steps)
    load = {"cores": os.cpu_count(), "load_before": before, "load_after": os.getloadavg()[0]}
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, **load, "results": rows}))
        return
    print(f"{load['cores']} cores, load {before:.1f} before and {load['load_after']:.1f} after")
    print(f"{'wait':>8s}  {'':20s} {'s/step':>8s} {'ratio':>7s} {'CPU s/step':>11s} {'oldest token':>13s}")
    for row in rows:
        numbers = f"{row['step_s']:8.2f} {row['ratio']:7.2f} {row['cpu_s']:11.2f} {row['lag_max']:13.0f}"
        print(f"{1000 * row['wait_s']:5.0f} ms  {row['variant']:20s} {numbers}")


if __name__ == "__main__":
    main()
