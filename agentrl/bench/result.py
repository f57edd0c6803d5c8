"""What a benchmark found: scores with error bars, per-tool statistics, tokens and time. Owns their JSON form.

Everything is computed from recorded trajectories, so a report can be made again from the store.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentrl.bench.estimates import (
    Estimate,
    cluster_bootstrap,
    clustered_mean,
    clustered_proportion,
    paired_difference,
    pass_at_k,
    pass_hat_k,
)
from agentrl.bench.evaluate import by_task
from agentrl.policy.base import SamplingParams
from agentrl.trajectory import EnvRef, Trajectory, Turn

Outcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class BenchConfig:
    """What is measured, and how much of it.

    Attributes:
        split: of the environment's tasks.
        num_tasks: a seeded choice of so many tasks, the same for every agent; None takes all. A larger number
            keeps the tasks of a smaller one.
        trials: episodes per task, each with seeds of its own.
        seed: of task choice, environments and sampling.
        sampling: of every turn; None leaves the policy's default.
        max_concurrency: episodes alive at the same time.
        references: also play the null policy and, where there is one, the oracle, once a task.
    """

    split: str = "eval"
    num_tasks: int | None = None
    trials: int = 1
    seed: int = 0
    sampling: SamplingParams | None = None
    max_concurrency: int = 64
    references: bool = True

    def __post_init__(self) -> None:
        if self.trials < 1 or self.max_concurrency < 1 or (self.num_tasks is not None and self.num_tasks < 1):
            raise ValueError(
                "trials, max_concurrency and num_tasks must be at least 1, "
                f"got {self.trials}, {self.max_concurrency} and {self.num_tasks}"
            )


@dataclass(frozen=True)
class ToolStatistics:
    """Calls of one tool over the scored episodes; `errors` are calls that came back as an error message."""

    calls: int = 0
    errors: int = 0
    episodes: int = 0


@dataclass(frozen=True)
class Effort:
    """What the scored episodes cost, on average per episode; nan where the policy does not tell.

    Attributes:
        completion_tokens, prompt_tokens, cached_tokens: prompt tokens count again at every turn.
        tokens_per_success: sampled tokens over all episodes, failed ones included, for each success.
        policy_s, env_s: wall seconds spent waiting for the policy and for the environment.
    """

    turns: float
    completion_tokens: float
    prompt_tokens: float
    cached_tokens: float
    tokens_per_success: Estimate
    policy_s: float
    env_s: float


@dataclass(frozen=True)
class Score:
    """One policy's result.

    Attributes:
        pass_at, pass_hat: pass@k and pass^k for k = 1, 2, 4, … and the number of trials.
        components: the reward's named parts, mean per episode.
        n_planned: episodes asked for; more than `n_episodes + n_faults` where the run was interrupted.
        truncated: episodes that a limit cut off, by limit; they are scored.
        faults: causes of discarded episodes; those are not scored.
        malformed_calls: tool calls that could not be read.
    """

    success: Estimate
    reward: Estimate
    pass_at: Mapping[int, Estimate]
    pass_hat: Mapping[int, Estimate]
    components: Mapping[str, Estimate]
    n_tasks: int
    n_episodes: int
    n_planned: int
    truncated: Mapping[str, int]
    faults: Mapping[str, int]
    tools: Mapping[str, ToolStatistics]
    malformed_calls: int
    effort: Effort

    @property
    def n_faults(self) -> int:
        return sum(self.faults.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "success": self.success.to_json(),
            "reward": self.reward.to_json(),
            "pass_at_k": {str(k): estimate.to_json() for k, estimate in self.pass_at.items()},
            "pass_hat_k": {str(k): estimate.to_json() for k, estimate in self.pass_hat.items()},
            "reward_components": {name: estimate.to_json() for name, estimate in self.components.items()},
            "n_tasks": self.n_tasks,
            "n_episodes": self.n_episodes,
            "n_planned": self.n_planned,
            "n_faults": self.n_faults,
            "faults": dict(self.faults),
            "truncated": dict(self.truncated),
            "malformed_calls": self.malformed_calls,
            "tools": {name: asdict(statistics) for name, statistics in self.tools.items()},
            "effort": _effort_to_json(self.effort),
        }


@dataclass(frozen=True)
class BenchResult:
    """A benchmark of one policy on one environment, with its references.

    Attributes:
        status: `interrupted` results hold what had been played.
        references: scores of `null` and `oracle` on the same tasks, where they were played.
        wall_s: seconds of this call; episodes from an earlier call are not in it.
        out: the folder of the records, if there is one.
        trajectories: the policy's final episodes, faults included.
    """

    env: EnvRef
    policy: str
    config: BenchConfig
    status: Outcome
    score: Score
    references: Mapping[str, Score]
    wall_s: float
    out: str | None
    trajectories: Sequence[Trajectory] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold, trajectories left out."""
        return {
            "status": self.status,
            "env": asdict(self.env),
            "policy": self.policy,
            "config": asdict(self.config),
            **self.score.to_json(),
            "references": {name: score.to_json() for name, score in self.references.items()},
            "wall_s": round(self.wall_s, 3),
            "out": self.out,
        }


def score_of(trajectories: Sequence[Trajectory], *, trials: int, n_planned: int) -> Score:
    """Score the final trajectories of one policy; discarded ones are counted and left out."""
    scored = [t for t in trajectories if t.status != "fault"]
    outcomes = [[bool(v) for v in values] for values in by_task(scored, lambda t: float(t.success))]
    ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, trials) if k <= trials})
    names = dict.fromkeys(name for t in scored for name in t.reward_components)
    return Score(
        success=clustered_proportion(outcomes),
        reward=clustered_mean(by_task(scored, lambda t: t.reward)),
        pass_at={k: pass_at_k(outcomes, k) for k in ks},
        pass_hat={k: pass_hat_k(outcomes, k) for k in ks},
        components={name: _component(scored, name) for name in names},
        n_tasks=len(outcomes),
        n_episodes=len(scored),
        n_planned=n_planned,
        truncated=_truncations(scored),
        faults=dict(Counter(t.error or "unknown" for t in trajectories if t.status == "fault").most_common()),
        tools=tool_statistics(scored),
        malformed_calls=sum(c.error is not None for t in scored for turn in t.turns for c in turn.action.tool_calls),
        effort=_effort(scored),
    )


def compare(first: BenchResult, second: BenchResult) -> Estimate:
    """Difference in success rate, `first - second`, on the tasks that both played, paired by task."""
    return paired_difference(_success_by_task(first.trajectories), _success_by_task(second.trajectories))


def _success_by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for trajectory in trajectories:
        if trajectory.status != "fault":
            values.setdefault(trajectory.task.id, []).append(float(trajectory.success))
    return values


def tool_statistics(trajectories: Iterable[Trajectory]) -> dict[str, ToolStatistics]:
    """Per tool, most called first: what the environment counted, else the calls in the actions."""
    calls, errors, episodes = Counter[str](), Counter[str](), Counter[str]()
    for trajectory in trajectories:
        counted = trajectory.info.get("tool_stats")
        if counted is None:
            counted = Counter(call.name for turn in trajectory.turns for call in turn.action.tool_calls)
            counted = {name: {"calls": number, "errors": 0} for name, number in counted.items()}
        for name, numbers in counted.items():
            calls[name] += numbers["calls"]
            errors[name] += numbers["errors"]
            episodes[name] += 1
    return {name: ToolStatistics(number, errors[name], episodes[name]) for name, number in calls.most_common()}


def _component(trajectories: Sequence[Trajectory], name: str) -> Estimate:
    return clustered_mean(by_task(trajectories, lambda t: t.reward_components.get(name, 0.0)))


def _truncations(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    limits = (t.ending.detail for t in trajectories if t.ending.kind == "limit")
    return dict(Counter(limits).most_common())


def _tokens(turn: Turn, name: str) -> int | None:
    """Tokens of a turn: what the policy reports, else the ids it gave."""
    reported = (turn.action.usage or {}).get(name)
    if reported is not None:
        return reported
    ids = {"completion_tokens": turn.action.token_ids, "prompt_tokens": turn.action.prompt_ids}.get(name)
    return len(ids) if ids is not None else None


def _sum_tokens(trajectory: Trajectory, name: str) -> float:
    counts = [_tokens(turn, name) for turn in trajectory.turns]
    known = [count for count in counts if count is not None]
    return float(sum(known)) if known else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _effort(trajectories: Sequence[Trajectory]) -> Effort:
    tokens = {
        name: _mean([_sum_tokens(t, name) for t in trajectories])
        for name in ("completion_tokens", "prompt_tokens", "cached_tokens")
    }
    return Effort(
        turns=_mean([float(len(t.turns)) for t in trajectories]),
        **tokens,
        tokens_per_success=_tokens_per_success(trajectories),
        policy_s=_mean([sum(turn.policy_s for turn in t.turns) for t in trajectories]),
        env_s=_mean([sum(turn.env_s for turn in t.turns) for t in trajectories]),
    )


def _tokens_per_success(trajectories: Sequence[Trajectory]) -> Estimate:
    def ratio(tasks: Sequence[tuple[float, float]]) -> float:
        successes = sum(count for _, count in tasks)
        return sum(tokens for tokens, _ in tasks) / successes if successes else math.nan

    known = [t for t in trajectories if not math.isnan(_sum_tokens(t, "completion_tokens"))]
    tokens = [sum(values) for values in by_task(known, lambda t: _sum_tokens(t, "completion_tokens"))]
    successes = [sum(values) for values in by_task(known, lambda t: float(t.success))]
    return cluster_bootstrap(list(zip(tokens, successes, strict=True)), ratio, resamples=500)


def _effort_to_json(effort: Effort) -> dict[str, Any]:
    record: dict[str, Any] = {"tokens_per_success": effort.tokens_per_success.to_json()}
    for name in ("turns", "completion_tokens", "prompt_tokens", "cached_tokens", "policy_s", "env_s"):
        value = getattr(effort, name)
        record[name] = round(value, 6) if math.isfinite(value) else None
    return record
