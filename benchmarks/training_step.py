"""Where a training step's CPU time goes, in the quickstart's setting.

    python benchmarks/training_step.py [--steps 12] [--demos 8000] [--eval-every 10] [--json FILE]

Warm-starts as the quickstart does (about a minute), then trains for a few steps with `agentrl.training.train.train`,
in a temporary folder. The script wraps functions of the library to time them: a part's CPU seconds are its own, without
those of the parts that it calls. The first two steps are not counted: caches are cold then.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from agentrl.env import registry
from agentrl.learning.learner import Learner
from agentrl.learning.lines.layouts import Layouts
from agentrl.learning.models import Models
from agentrl.policy.engine.scheduler import Engine
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.run import Run
from agentrl.training.settings import EnvConfig, RunConfig
from agentrl.training.stages import reinforce
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train

WARM_UP = 2
RL = "rl"
REST = "the rest of the run"
# In the order of the table. The parts in AFTER_STEPS run between steps, and not after each.
PARTS = {
    "sample": "sample: the engine",
    "rollout": "sample: prompts, parsing, rollout",
    "environment": "environment",
    "rows": "advantages and rows",
    "forward": "forward and loss",
    "backward": "backward",
    "optimiser": "clipping and optimiser",
    "record": "recording trajectories",
    "rest": REST,
    "evaluation": "evaluation on held-out tasks",
    "checkpoint": "checkpoints",
}
AFTER_STEPS = ("evaluation", "checkpoint")


class Clock:
    """CPU seconds by part; the time of a nested part is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open = ["rest"]
        self._since = time.process_time()

    def _turn_over(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside to a part. Evaluation and checkpoints keep all that they call."""
        self._turn_over()
        self._open.append(self._open[-1] if self._open[-1] in AFTER_STEPS else name)
        try:
            yield
        finally:
            self._turn_over()
            self._open.pop()

    def read(self) -> dict[str, float]:
        """Seconds of each part until now."""
        self._turn_over()
        return dict(self.seconds)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Replace a function of a module or class by one that is timed."""
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return function(*args, **kwargs)

        setattr(owner, name, timed)

    def watch_async(self, owner: Any, name: str, part: str) -> None:
        """The same for a coroutine function. What runs while it waits counts to it, unless it is a part itself."""
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return await function(*args, **kwargs)

        setattr(owner, name, timed)


def watch_training(clock: Clock, config: TrainConfig) -> None:
    """Time the parts of a step.

    Raises: SystemExit if the environment waits inside a step: other parts would run meanwhile and count as its own.
    """
    probe = registry.make(config.env.ref)
    if probe._agentrl_waits():
        raise SystemExit(f"{config.env.id} waits inside a step; give an environment that does not")
    clock.watch_async(type(probe), "areset", "environment")
    clock.watch_async(type(probe), "astep", "environment")
    probe.close()
    stage = reinforce._ReinforceStage
    clock.watch(Engine, "step", "sample")
    clock.watch_async(stage, "_sample", "rollout")
    clock.watch_async(stage, "_rows", "rows")
    clock.watch_async(Run, "evaluate", "evaluation")
    clock.watch(Run, "_record", "record")
    clock.watch(Run, "_save", "checkpoint")
    clock.watch(Layouts, "of", "rows")
    clock.watch(Learner, "_update", "optimiser")
    clock.watch(Models, "predicted", "forward")
    clock.watch(type(_reinforce(config).total), "__call__", "forward")
    clock.watch(torch.Tensor, "backward", "backward")


def _reinforce(config: TrainConfig) -> Reinforce:
    settings = config.stages[RL]
    if not isinstance(settings, Reinforce):
        raise TypeError(f"stage {RL} is of {type(settings).__name__}, expected Reinforce")
    return settings


def measure(config: TrainConfig) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Seconds of each part at the end of each step, from the last uncounted step on, and the steps' metrics."""
    clock = Clock()
    watch_training(clock, config)
    readings: list[dict[str, float]] = []
    metrics: list[dict[str, float]] = []

    def note(progress: Progress) -> None:
        if progress.stage == RL and progress.metrics:
            readings.append(clock.read())
            metrics.append(dict(progress.metrics))
            print(f"step {progress.step} of {progress.total}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", on_progress=note)
    return readings[WARM_UP - 1 :], metrics[WARM_UP:]


def rows_of_table(readings: list[dict[str, float]]) -> list[tuple[str, float, float, float]]:
    """Per part: median milliseconds a step, share of a step, and share with evaluation and checkpoints spread out."""
    pairs = list(pairwise(readings))
    steps = {name: [after.get(name, 0.0) - before.get(name, 0.0) for before, after in pairs] for name in PARTS}
    whole = sum(sum(values) for values in steps.values())
    within = sum(sum(values) for name, values in steps.items() if name not in AFTER_STEPS)
    table = []
    for name, label in PARTS.items():
        inside = name not in AFTER_STEPS
        middle = statistics.median(steps[name]) if inside else statistics.mean(steps[name])
        table.append((label, 1e3 * middle, sum(steps[name]) / within if inside else 0.0, sum(steps[name]) / whole))
    return table


def print_table(table: list[tuple[str, float, float, float]], metrics: list[dict[str, float]]) -> None:
    print("| part | ms/step | of a step | of the run |\n|---|---:|---:|---:|")
    for label, milliseconds, of_step, of_run in table:
        print(f"| {label} | {milliseconds:.1f} | {f'{of_step:.1%}' if of_step else '-'} | {of_run:.1%} |")
    names = ("rollout/turns_mean", "rollout/tokens_mean", "rollout/success", "train/tokens", "train/context_tokens")
    means = ", ".join(f"{n} {statistics.mean(m.get(n, 0.0) for m in metrics):.4g}" for n in names)
    print(f"\nmeans over the steps: {means}")
    print(f"python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} torch thread(s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="agentrl/Shop-v0")
    parser.add_argument("--steps", type=int, default=12, help="the first two are not counted")
    parser.add_argument("--demos", type=int, default=8000, help="demonstrations of the warm start")
    parser.add_argument("--eval-every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--checkpoint-every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--json", type=Path, help="write the table here")
    given = parser.parse_args()
    if given.steps <= WARM_UP:
        parser.error(f"--steps must be more than {WARM_UP}")
    config = TrainConfig(
        env=EnvConfig(id=given.env),
        stages={
            "warm_start": Supervise(demonstrators={"oracle": 0.25, "hasty": 0.75}, num_episodes=given.demos),
            "before": Evaluate(num_tasks=16),
            RL: Reinforce(steps=given.steps, checkpoint_every=given.checkpoint_every),
            "after": Evaluate(num_tasks=16),
        },
        run=RunConfig(evaluate_every=given.eval_every, keep_best=False, tensorboard=False),
    )
    readings, metrics = measure(config)
    table = rows_of_table(readings)
    print_table(table, metrics)
    if given.json is not None:
        keys = ("part", "ms_per_step", "share_of_step", "share_of_run")
        given.json.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in table], indent=1) + "\n")


if __name__ == "__main__":
    main()
