"""One evaluation over several environments: its episodes and scores by environment, their mean and their minimum.

Task ids are unique within an environment alone, so tasks of several are named `NAME/ID` here. Owns no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentrl.bench.estimates import Estimate
from agentrl.bench.evaluate import EvalResult, requests_of, summarize
from agentrl.rollout.requests import GroupRequest
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory


def requests_of_each(
    tasks: Mapping[str, Sequence[Task]], envs: Mapping[str, EnvRef], trials: int, seed: int, labels: Labels
) -> list[GroupRequest]:
    """`requests_of` for the tasks of each environment; of several, the environments' names begin the groups' ids.

    Args: tasks, envs: by name of the environment.
    """
    several = len(envs) > 1
    return [
        replace(request, env=envs[name], group_id=f"{name}/{request.group_id}") if several else request
        for name, own in tasks.items()
        for request in requests_of(own, trials, seed, labels)
    ]


def by_environment(
    trajectories: Sequence[Trajectory], envs: Mapping[str, EnvRef], *, wall_s: float = 0.0
) -> dict[str, EvalResult]:
    """Score the episodes of each environment.

    Args:
        trajectories: of all of them.
        envs: by name; of one environment, all episodes are its own.
        wall_s: seconds of the whole evaluation, recorded with each.
    """
    if len(envs) == 1:
        return {name: summarize(trajectories, wall_s=wall_s) for name in envs}
    return {
        name: summarize([t for t in trajectories if t.env.key == ref.key], wall_s=wall_s) for name, ref in envs.items()
    }


def pooled(results: Mapping[str, EvalResult]) -> EvalResult:
    """One result over the tasks of all environments, every task with the same weight. Of one environment: its own."""
    if len(results) == 1:
        return next(iter(results.values()))
    named = [named_task(trajectory, name) for name, result in results.items() for trajectory in result.trajectories]
    return summarize(named, wall_s=max(result.wall_s for result in results.values()))


def named_task(trajectory: Trajectory, environment: str) -> Trajectory:
    """The episode with `NAME/ID` as its task's id."""
    return replace(trajectory, task=replace(trajectory.task, id=f"{environment}/{trajectory.task.id}"))


def named_tasks(trajectories: Sequence[Trajectory], environments: Mapping[str, Any]) -> list[Trajectory]:
    """The episodes with `NAME/ID` as their tasks' ids, where there are several environments.

    Args: environments: by name, as an evaluation's table in summary.json holds them; empty for one environment.
    """
    names = {EnvRef(**found["env"]).key: name for name, found in environments.items()}
    return [named_task(t, names[t.env.key]) if names else t for t in trajectories]


def success_metrics(results: Mapping[str, EvalResult]) -> dict[str, float]:
    """Success in each environment, their mean and their minimum, as a run logs them; nothing for one environment."""
    if len(results) == 1:
        return {}
    kinds = {
        "eval/success": {name: result.success for name, result in results.items()},
        "eval/success_of_attempted": {name: result.success_of_attempted for name, result in results.items()},
    }
    metrics: dict[str, float] = {}
    for kind, found in kinds.items():
        metrics |= {f"{kind}@{name}": estimate.mean for name, estimate in found.items()}
        metrics[f"{kind}_env_mean"] = mean_over(list(found.values())).mean
        metrics[f"{kind}_env_min"] = min(estimate.mean for estimate in found.values())
    return metrics


def mean_over(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over environments, each with the same weight: m = (1/K) sum m_k.

    The environments are given, and their tasks are drawn independently, so the half-width of the interval is
    h = (1/K) sqrt(sum h_k^2), taken separately below and above the mean.
    """
    count = len(estimates)
    mean = sum(e.mean for e in estimates) / count
    low = math.sqrt(sum((e.mean - e.low) ** 2 for e in estimates)) / count
    high = math.sqrt(sum((e.high - e.mean) ** 2 for e in estimates)) / count
    return Estimate(mean, mean - low, mean + high, count)


def environments_to_json(results: Mapping[str, EvalResult], trained: Sequence[str]) -> dict[str, Any]:
    """Mean success over environments and the lowest one, of all, of those trained on, and of those held out.

    `of_attempted` has the same with discarded episodes as failures.

    Args:
        results: by name.
        trained: names of those that the model learnt from.
    """
    kinds = {
        "all": list(results),
        "trained": [name for name in results if name in trained],
        "held_out": [name for name in results if name not in trained],
    }
    return {kind: _spreads({name: results[name] for name in names}) for kind, names in kinds.items() if names}


def _spreads(results: Mapping[str, EvalResult]) -> dict[str, Any]:
    attempted = _spread({name: result.success_of_attempted for name, result in results.items()})
    return {**_spread({name: result.success for name, result in results.items()}), "of_attempted": attempted}


def _spread(found: Mapping[str, Estimate]) -> dict[str, Any]:
    lowest = min(found, key=lambda name: found[name].mean)
    return {"mean": mean_over(list(found.values())).to_json(), "min": {"env": lowest, **found[lowest].to_json()}}
