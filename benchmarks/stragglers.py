"""Stragglers: episodes per second where a few tool calls are a hundred times slower than the rest.

64 slots, 256 episodes of 4 tool calls; a call takes 10 ms, 5% of them take 1 s. Compared, on the
same plan of delays and interleaved: our rollout (environment, policy and recording included), and
three loops with nothing but the delays in them: batches in lock step, a thread pool, and
`asyncio.gather` under a semaphore. `bound` is what first-come, first-served slots could reach at
most, computed from the plan.

    python benchmarks/stragglers.py [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

SLOTS, EPISODES, CALLS = 64, 256, 4
FAST_S, SLOW_S, SLOW_SHARE = 0.010, 1.0, 0.05
Plan = list[list[float]]


def make_plan(seed: int) -> Plan:
    """Seconds of each call of each episode."""
    slow = np.random.default_rng(seed).random((EPISODES, CALLS)) < SLOW_SHARE
    return np.where(slow, SLOW_S, FAST_S).tolist()  # type: ignore[no-any-return]


class Wait(ToolEnv):
    """Each tool call waits as long as the plan says."""

    tasks = Tasks.of(train=[{"n": n} for n in range(EPISODES)])
    plan: ClassVar[Plan] = []

    async def start(self, task: Task) -> str:
        self.delays = self.plan[task.data["n"]]
        return "go"

    @tool
    async def fetch(self, index: int) -> str:
        """Wait."""
        await asyncio.sleep(self.delays[index])
        return "ok"

    async def score(self, answer: str | None) -> float:
        return float(answer == "done")


class Caller(Policy):
    """Calls the tool, then answers."""

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        index = len(messages) // 2
        return call("fetch", index=index) if index < CALLS else Action("done")


def ours(plan: Plan) -> None:
    """`Rollouts`, every trajectory recorded to disk."""
    Wait.plan = plan

    async def main(store: TrajectoryStore) -> None:
        requests = (GroupRequest(task, 0) for task in Wait.tasks.split("train"))
        async with Rollouts(Wait, Caller(), env_id="bench/Wait-v0", max_concurrency=SLOTS, store=store) as rollouts:
            groups = await rollouts.run(requests)
        if any(group.rewards != [1.0] for group in groups):
            raise RuntimeError("an episode was lost: the figures would mean nothing")

    with TemporaryDirectory() as folder, TrajectoryStore(Path(folder) / "trajectories.jsonl") as store:
        asyncio.run(main(store))


def plain_async(plan: Plan) -> None:
    """`asyncio.gather` under a semaphore."""

    async def episode(slots: asyncio.Semaphore, delays: Sequence[float]) -> None:
        async with slots:
            for delay in delays:
                await asyncio.sleep(delay)

    async def main() -> None:
        slots = asyncio.Semaphore(SLOTS)
        await asyncio.gather(*(episode(slots, delays) for delays in plan))

    asyncio.run(main())


def thread_pool(plan: Plan) -> None:
    """One thread a slot."""

    def episode(delays: Sequence[float]) -> None:
        for delay in delays:
            time.sleep(delay)

    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(episode, plan))


def lock_step(plan: Plan) -> None:
    """Batches of 64 episodes that step together; each step waits for its slowest call."""

    async def main() -> None:
        for first in range(0, EPISODES, SLOTS):
            for calls in zip(*plan[first : first + SLOTS], strict=True):
                await asyncio.gather(*(asyncio.sleep(delay) for delay in calls))

    asyncio.run(main())


def bound_s(plan: Plan) -> float:
    """Seconds that first-come, first-served slots need for the delays alone."""
    free = [0.0] * SLOTS
    for delays in plan:
        heapq.heapreplace(free, free[0] + sum(delays))
    return max(free)


VARIANTS: Mapping[str, Callable[[Plan], None]] = {
    "agentrl": ours,
    "plain async": plain_async,
    "thread pool": thread_pool,
    "lock step": lock_step,
}


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Median episodes per second and CPU seconds of each variant, interleaved."""
    rates: dict[str, list[float]] = {name: [] for name in (*VARIANTS, "bound")}
    cpu_s: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in range(repeats):
        plan = make_plan(seed)
        rates["bound"].append(EPISODES / bound_s(plan))
        for name, run in VARIANTS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(plan)
            rates[name].append(EPISODES / (time.perf_counter() - wall))
            cpu_s[name].append(time.process_time() - cpu)
    return {
        name: {
            "episodes_per_s": statistics.median(values),
            "of_bound": statistics.median(a / b for a, b in zip(values, rates["bound"], strict=True)),
            **({"cpu_s": statistics.median(cpu_s[name])} if name in cpu_s else {}),
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3, help="plans to run, each by every variant")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    results = measure(arguments.repeats)
    if arguments.json:
        print(json.dumps({"slots": SLOTS, "episodes": EPISODES, "calls": CALLS, "results": results}))
        return
    print(f"{SLOTS} slots, {EPISODES} episodes of {CALLS} calls; 10 ms, 5% of them 1 s; {arguments.repeats} repeats")
    print(f"{'':12s} {'episodes/s':>11s} {'of bound':>9s} {'CPU s':>7s}")
    for name, row in results.items():
        cpu = f"{row['cpu_s']:7.2f}" if "cpu_s" in row else f"{'':7s}"
        print(f"{name:12s} {row['episodes_per_s']:11.1f} {row['of_bound']:9.2f} {cpu}")


if __name__ == "__main__":
    main()
