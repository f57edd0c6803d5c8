"""Evaluation of one policy on given tasks, for a training run or for a caller's own script.

Owns which episodes are played (task, trial, seed) and which are counted. `agentrl.rollout` runs them.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.base import scored
from agentrl.bench.measures.endings import Counts
from agentrl.bench.measures.success import Reward, Success, SuccessOfAttempted
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.env.driving.wrapped import as_env
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory

EnvMaker = Callable[[], Env]
Which = str | EnvRef | EnvMaker
"""An environment as callers name it: a registered id, a reference, or a function that makes one instance."""


@dataclass(frozen=True)
class EvalResult:
    """Success rate and mean reward over tasks, with 95% intervals; faults are counted separately and never scored.

    Attributes:
        success, reward: means over tasks; the trials of a task are averaged first.
        success_of_attempted: the success rate, with discarded episodes, and those with a second choice, as failures.
        counts: how the episodes ended: attempted = scored + discarded.
        wall_s: seconds for the whole evaluation.
        trajectories: all episodes in the order of tasks and trials, faults included.
    """

    success: Estimate
    success_of_attempted: Estimate
    reward: Estimate
    n_tasks: int
    counts: Counts
    wall_s: float
    trajectories: Sequence[Trajectory] = field(repr=False)

    @property
    def n_episodes(self) -> int:
        """Episodes that were scored."""
        return self.counts.scored

    @property
    def n_faults(self) -> int:
        """Episodes that failed on every attempt for reasons that are not the model's."""
        return self.counts.num_discarded

    @property
    def mean(self) -> float:
        """The success rate; nan where every episode was a fault."""
        return self.success.mean

    @property
    def ci95(self) -> tuple[float, float]:
        return self.success.ci95

    @property
    def reward_mean(self) -> float:
        return self.reward.mean

    @property
    def outcomes(self) -> dict[str, list[float]]:
        """Success of each task's scored episodes, by task id."""
        return Success().values_by_task(self.trajectories)

    @property
    def outcomes_of_attempted(self) -> dict[str, list[float]]:
        """The same of all episodes, where those that `success_of_attempted` counts as failures are 0."""
        return SuccessOfAttempted().values_by_task(self.trajectories)

    def metrics(self) -> dict[str, float]:
        """Success and reward with their 95% intervals, counts and wall seconds, as a training run logs them."""
        (low, high), (reward_low, reward_high) = self.ci95, self.reward.ci95
        attempted, discarded = self.success_of_attempted, self.counts.discarded
        return {
            "eval/success": self.mean,
            "eval/ci95_low": low,
            "eval/ci95_high": high,
            "eval/success_of_attempted": attempted.mean,
            "eval/success_of_attempted_ci95_low": attempted.low,
            "eval/success_of_attempted_ci95_high": attempted.high,
            "eval/attempted": float(self.counts.attempted),
            "eval/discarded": float(self.n_faults),
            **{f"eval/discarded_{cause}": float(number) for cause, number in discarded.items()},
            "eval/discarded_after_actions": float(self.counts.after_actions),
            "eval/errors": float(sum(self.counts.errors.values())),
            "eval/reward_mean": self.reward_mean,
            "eval/reward_mean_ci95_low": reward_low,
            "eval/reward_mean_ci95_high": reward_high,
            "time/eval_s": self.wall_s,
        }

    def to_json(self) -> dict[str, Any]:
        """Means, intervals and counts, without trajectories; `warnings` is empty where the numbers can be trusted."""
        success, reward = self.success.to_json(), self.reward.to_json()
        return {
            "mean": success["mean"],
            "ci95": success["ci95"],
            "success_of_attempted": self.success_of_attempted.to_json(),
            "reward_mean": reward["mean"],
            "reward_ci95": reward["ci95"],
            "n_tasks": self.n_tasks,
            "n_episodes": self.n_episodes,
            "n_faults": self.n_faults,
            **self.counts.to_json(),
            "warnings": [self.counts.warning] if self.counts.warning else [],
            "wall_s": round(self.wall_s, 3),
        }


def summarize(trajectories: Sequence[Trajectory], *, wall_s: float = 0.0) -> EvalResult:
    """Score recorded episodes: faults are left out, the others are grouped by task."""
    counting = scored(trajectories)
    return EvalResult(
        success=Success()(trajectories),
        success_of_attempted=SuccessOfAttempted()(trajectories),
        reward=Reward()(trajectories),
        n_tasks=len({t.task.id for t in counting}),
        counts=Counts.of(trajectories),
        wall_s=wall_s,
        trajectories=trajectories,
    )


def episode_seed(seed: int, task_id: str, trial: int) -> int:
    """The environment seed of a task's trial: the same for every policy and every choice of tasks."""
    return int(np.random.SeedSequence([seed, zlib.crc32(task_id.encode()), trial]).generate_state(1)[0])


def trial_key(task_id: str, trial: int) -> str:
    """The group id under which a trial of a task is recorded."""
    return f"{task_id}#{trial}"


def requests_of(
    tasks: Sequence[Task],
    trials: int,
    seed: int,
    labels: Labels = Labels(),  # noqa: B008 (frozen)
) -> list[GroupRequest]:
    """One request per task and trial, trials of a task next to each other."""
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    return [
        GroupRequest(task, episode_seed(seed, task.id, trial), 1, trial_key(task.id, trial), labels)
        for task in tasks
        for trial in range(trials)
    ]


async def aevaluate(
    policy: Policy,
    env: Which,
    tasks: Sequence[Task],
    *,
    trials: int = 1,
    sampling: SamplingParams | None = None,
    seed: int = 0,
    env_id: str | None = None,
    labels: Labels = Labels(),  # noqa: B008 (frozen)
    max_concurrency: int = 64,
    store: TrajectoryStore | None = None,
    on_trajectory: Callable[[Trajectory], None] | None = None,
) -> EvalResult:
    """Play `trials` episodes of each task and score them.

    Args:
        policy: stays open; the caller closes it.
        env: a registered id, a reference, or a function that makes one environment.
        tasks: for example `env.tasks.split("eval")`.
        trials: episodes per task, each with seeds of its own.
        sampling: overrides the policy's default; `SamplingParams(temperature=0)` is greedy.
        seed: of environments and sampling; the same seed gives every policy the same episodes.
        env_id: the name to record, where `env` is a function.
        labels: recorded on each trajectory.
        store: receives every episode as it ends, discarded attempts too.
        on_trajectory: called as each episode ends.
    Raises: RolloutError if all episodes, or almost all, end in a fault.
    """
    requests = requests_of(tasks, trials, seed, labels)
    started = time.perf_counter()
    rollouts = Rollouts(
        env,
        policy,
        env_id=env_id or "",
        max_concurrency=min(max_concurrency, max(1, len(requests))),
        sampling=sampling,
        store=store,
        on_trajectory=on_trajectory,
    )
    async with rollouts:
        groups = await rollouts.run(requests)
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    return summarize(trajectories, wall_s=time.perf_counter() - started)


def evaluate(policy: Policy, env: Which, tasks: Sequence[Task], **options: Any) -> EvalResult:
    """`aevaluate` for code without an event loop; the same arguments.

    Raises: RuntimeError inside a running event loop: use `await aevaluate(...)` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(aevaluate(policy, env, tasks, **options))
    raise RuntimeError("an event loop is running here: use `await aevaluate(...)` with the same arguments")


def env_maker(env: Which) -> EnvMaker:
    """A function that makes one environment of a registered id or reference, or the given function."""
    return partial(registry.make, env) if isinstance(env, (str, EnvRef)) else lambda: as_env(env())


def env_ref(env: Which) -> EnvRef:
    """The reference to record: that of an id, or of a class's or function's name."""
    return registry.reference(env) if isinstance(env, (str, EnvRef)) else EnvRef(getattr(env, "__name__", "env"))
