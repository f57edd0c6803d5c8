"""A chain of decisions whose advantages are known exactly, and the credit meter on it.

Each turn goes right with probability 0.8, and each right turn before the first wrong one earns 0.1; being right in
every turn earns 1 at the end. The table compares each estimator with the exact advantages.

    python benchmarks/credit_chain.py [--tasks 64] [--length 5] [--group-size 8] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl.bench.credit_meter.meter import measure_credit
from agentrl.bench.credit_meter.samples import MeterSettings
from agentrl.env.base import Limits
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.trajectory import Task, Trajectory

RIGHT, STEP, GOAL = 0.8, 0.1, 1.0


class Chain(ToolEnv):
    """Go right, again and again."""

    tasks = Tasks.of(train=[{"n": n} for n in range(1000)], eval=[{"n": -1}])
    rubric = Rubric({"steps": 1.0, "goal": 1.0})
    limits = Limits(max_turns=50)

    def __init__(self, length: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def start(self, task: Task) -> str:
        self.path: list[bool] = []
        return f"Chain {task.data['n']}: right or wrong?"

    def respond(self, text: str) -> str | None:
        self.path.append(text == "right")
        if all(self.path):
            self.add_reward("steps", STEP)
        return "And now?" if len(self.path) < self.length else None

    def score(self, answer: str | None) -> dict[str, float]:
        return {"goal": GOAL * all(self.path)}

    def state_key(self) -> str:
        return f"{len(self.path)} {all(self.path)}"


class Coin(Policy):
    """Goes right with a fixed probability; a function of the sampling seed and the turn."""

    name = "coin"

    def __init__(self) -> None:
        self.sampling = SamplingParams()

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        seed = (sampling.seed if sampling else None) or 0
        right = bool(np.random.default_rng((seed, len(messages))).random() < RIGHT)
        if sampling is not None and sampling.temperature == 0:
            right = True
        logprob = float(np.log(RIGHT if right else 1 - RIGHT))
        return Action("right" if right else "wrong", prompt_ids=(0,), token_ids=(int(right),), logprobs=(logprob,))


def value(alive: bool, left: int) -> float:
    """Of a state with a number of turns left: the right turns that are to come, and the goal."""
    if not alive:
        return 0.0
    return sum(STEP * RIGHT**n for n in range(1, left + 1)) + GOAL * RIGHT**left


def exact(trajectory: Trajectory, turn: int) -> float:
    """The advantage of a turn of the chain."""
    path = [t.action.text == "right" for t in trajectory.turns]
    left, before, after = len(path) - turn, all(path[:turn]), all(path[: turn + 1])
    # The goal's reward comes with the last turn; its value is counted there as that of the state after it.
    return STEP * after + value(after, left - 1) - value(before, left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--length", type=int, default=5)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settings = MeterSettings(group_size=args.group_size)
    report = measure_credit(
        lambda: Chain(args.length), Coin(), num_tasks=args.tasks, settings=settings, seed=args.seed, truth=exact
    )
    print(json.dumps(report.to_json(), indent=1) if args.json else report.to_text())


if __name__ == "__main__":
    main()
