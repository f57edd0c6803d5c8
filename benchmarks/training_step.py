"""Where a training step's time goes: sampling, environment, rows, forward, backward, optimiser, records.

Runs the quickstart's RL steps after a short warm start, with a clock around each part, and prints the
median seconds of each part per step and its share of the step. Evaluation and checkpoints come between
steps and are listed apart. Environment time is inside sampling and is taken out of it.

    python benchmarks/training_step.py --steps 15
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from agentrl.config import load_config
from agentrl.env.tool_env import ToolEnv
from agentrl.rollout.runner import Rollouts
from agentrl.training import checkpoint, loop
from agentrl.training.config import TrainConfig
from agentrl.training.learner import Learner

WITHIN_A_STEP = ("sampling", "environment", "advantages, rows", "forward", "backward", "optimiser", "records")
BETWEEN_STEPS = ("evaluation", "checkpoint")


class Clocks:
    """Seconds per part since the last `lap`."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.laps: list[dict[str, float]] = []

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it; a coroutine function stays one."""
        if inspect.iscoroutinefunction(function):

            async def timed_async(*args: Any, **kwargs: Any) -> Any:
                started = time.perf_counter()
                try:
                    return await function(*args, **kwargs)
                finally:
                    self.now[part] += time.perf_counter() - started

            return timed_async

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.now[part] += time.perf_counter() - started

        return timed

    def lap(self) -> None:
        """Close one step; parts that contain others are left with their own time."""
        seconds, self.now = dict(self.now), defaultdict(float)
        seconds["sampling"] = seconds.get("sampling", 0.0) - seconds.get("environment", 0.0)
        learner = seconds.pop("learner", 0.0)
        seconds["forward"] = learner - seconds.get("backward", 0.0) - seconds.get("optimiser", 0.0)
        self.laps.append(seconds)


def install(clocks: Clocks) -> None:
    """Put clocks around the parts of the training program."""
    parts: list[tuple[Any, str, str]] = [
        (Rollouts, "run", "sampling"),
        (ToolEnv, "areset", "environment"),
        (ToolEnv, "astep", "environment"),
        (loop, "build_rows", "advantages, rows"),
        (loop, "group_advantages", "advantages, rows"),
        (Learner, "step", "learner"),
        (torch.Tensor, "backward", "backward"),
        (torch.optim.AdamW, "step", "optimiser"),
        (loop.Trainer, "_record", "records"),
        (loop, "aevaluate", "evaluation"),
        (checkpoint, "save", "checkpoint"),
    ]
    for owner, name, part in parts:
        setattr(owner, name, clocks.around(part, getattr(owner, name)))


def measure(config: TrainConfig) -> list[dict[str, float]]:
    """Run and return the seconds of each part, one entry per RL step; evaluations fall to the step after."""
    clocks = Clocks()
    install(clocks)

    def on_progress(progress: loop.Progress) -> None:
        if progress.phase == "rl":
            clocks.lap()
        elif progress.phase == "warm_start":
            clocks.now.clear()

    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, Path(folder) / "run", on_progress=on_progress)
    # The first step carries the evaluation before RL and the first allocations.
    return clocks.laps[1:]


def table(laps: list[dict[str, float]]) -> list[str]:
    medians = {part: median(lap.get(part, 0.0) for lap in laps) for part in WITHIN_A_STEP}
    whole = sum(medians.values())
    lines = ["| part | median s per step | share |", "|---|---:|---:|"]
    lines += [f"| {part} | {seconds:.4f} | {seconds / whole:.1%} |" for part, seconds in medians.items()]
    lines.append(f"| **step** | **{whole:.3f}** | |")
    for part in BETWEEN_STEPS:
        times = [lap[part] for lap in laps if lap.get(part)]
        if times:
            lines.append(f"| {part}, each of {len(times)} | {median(times):.4f} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart.toml")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--demonstrations", type=int, default=6400, help="of the warm start, to reach real episodes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    config = replace(
        config,
        warm_start=replace(config.warm_start, num_episodes=args.demonstrations, epochs=1),
        train=replace(config.train, steps=args.steps),
        eval=replace(config.eval, every=5, final_num_tasks=16),
        run=replace(config.run, checkpoint_every=5, tensorboard=False),
    )
    laps = measure(config)
    print(json.dumps(laps, indent=1) if args.json else "\n".join(table(laps)))


if __name__ == "__main__":
    main()
