"""What laying rows out as a tree saves: one update of a run's own episodes, padded and as a tree, interleaved.

    python benchmarks/layouts.py RUN [--step 6] [--rounds 7] [--rows 128] [--train-layers 0] [--json FILE]

RUN is a finished run of `agentrl train` with a stage `rl`. The rows are the episodes of one of its steps; the update is
that of GRPO with random advantages and a rate of 0. First both gradients are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.rows import Row, rows_of_trajectory, with_coefficients
from agentrl.policy import model_folder
from agentrl.rollout.store import TrajectoryStore

LAYOUTS = ("pad", "tree")


def rows_of(run: Path, step: int, most: int) -> list[Row]:
    """The rows of a step's episodes, with random advantages."""
    played = [t for t in TrajectoryStore(run / "trajectories.jsonl").read(stage="rl") if t.labels.step == step]
    kept = [t for t in played if t.trains and t.labels.mode != "greedy"][:most]
    rng = np.random.default_rng(0)
    rows = [row for number, t in enumerate(kept) for row in rows_of_trajectory(t, number)]
    return [
        row.with_columns(
            advantages=np.full(len(row), rng.normal(), np.float32), old_logprobs=row.column("sampled_logprobs")
        )
        for row in with_coefficients(rows, "token")
    ]


def learner_of(model: Any, layout: Any) -> Learner:
    return Learner(model, LearnerSettings(lr=0.0, layout=layout, measure_share=0.0, max_grad_norm=0.0), PPOClip())


def gradient(model: Any, rows: list[Row], layout: str) -> torch.Tensor:
    asyncio.run(learner_of(model, layout).update(rows, PPOClip()))
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=128, help="most episodes")
    parser.add_argument("--train-layers", type=int, default=0, help="only the last layers train; 0 trains all")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = model_folder.load(args.run / "model")
    if args.train_layers:
        model.requires_grad_(False)
        for layer in model.model.layers[-args.train_layers :]:
            layer.requires_grad_(True)
    rows = rows_of(args.run, args.step, args.rows)
    if not rows:
        parser.error(f"{args.run} has no episodes of step {args.step} of a stage named rl")
    plain, shared = (gradient(model, rows, layout) for layout in LAYOUTS)
    learners = {layout: learner_of(model, layout) for layout in LAYOUTS}
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for number in range(args.rounds):
        for layout in LAYOUTS if number % 2 else LAYOUTS[::-1]:
            started = time.process_time()
            asyncio.run(learners[layout].update(rows, PPOClip()))
            seconds[layout].append(time.process_time() - started)
    result = {
        "run": args.run.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": len(rows),
        "tokens": sum(map(len, rows)),
        "distinct_tokens": sum(batch.num_tokens for batch in learners["tree"].layouts.of(rows)),
        "gradient_difference": float((plain - shared).norm() / plain.norm()),
        **{f"{layout}_ms": round(1000 * statistics.median(times), 1) for layout, times in seconds.items()},
        "pairwise_ratio": round(statistics.median(np.divide(seconds["pad"], seconds["tree"])), 2),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
