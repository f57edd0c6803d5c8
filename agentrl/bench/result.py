"""What a benchmark found: scores with error bars, per-tool statistics, tokens and time. Owns their JSON form.

The formulas are those of `agentrl.bench.measures`. Everything is computed from recorded trajectories, so the
scores can be computed again from the store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np

from agentrl.bench.estimates import Estimate
from agentrl.bench.judges.judged import Judged
from agentrl.bench.measures.base import Measure, Measured, measured, scored
from agentrl.bench.measures.cost import Price
from agentrl.bench.measures.effort import (
    CachedTokens,
    CompletionTokens,
    EnvSeconds,
    LatencySeconds,
    PolicySeconds,
    PromptTokens,
    ReasoningTokens,
    TokensPerSuccess,
    Turns,
    served_models,
)
from agentrl.bench.measures.endings import Counts, fault_causes, truncations
from agentrl.bench.measures.success import (
    Component,
    PassAt,
    PassHat,
    Reward,
    Success,
    SuccessOfAttempted,
    complete_episodes,
    outcomes,
    pass_hat_of_attempted,
)
from agentrl.bench.measures.tools import ToolStatistics, num_malformed_calls, tool_statistics
from agentrl.bench.provenance import Provenance
from agentrl.bench.records import BenchRecord, task_results, tasks_to_json
from agentrl.env.base import Env
from agentrl.errors import ConfigError, TaskError, did_you_mean
from agentrl.policy.base import SamplingParams
from agentrl.serving.capture.settings import AgentConfig
from agentrl.trajectory import EnvRef, Task, Trajectory

Outcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class BenchConfig:
    """What is measured, and how much of it.

    Attributes:
        split: of the environment's tasks.
        num_tasks: how many tasks to choose; None takes all. The choice follows from the seed alone, so it is the same
            for every agent, and a larger number keeps the tasks of a smaller one.
        trials: episodes per task, each with seeds of its own.
        seed: of task choice, environments and sampling.
        sampling: of every turn; None leaves the policy's default.
        max_concurrency: episodes alive at the same time.
        references: also play the null policy and, where there is one, the oracle, once per task.
        price: of the policy's tokens; None does not know it.
        budget_usd: no further episode begins once what was played costs as much. Episodes of earlier calls in the same
            folder count.
        agent: a program of its own that plays the policy's episodes; None lets the policy itself take the turns.
    """

    split: str = "eval"
    num_tasks: int | None = None
    trials: int = 1
    seed: int = 0
    sampling: SamplingParams | None = None
    max_concurrency: int = 64
    references: bool = True
    price: Price | None = None
    budget_usd: float | None = None
    agent: AgentConfig | None = None

    def __post_init__(self) -> None:
        if self.budget_usd is not None and (self.price is None or self.budget_usd <= 0):
            raise ValueError(
                f"budget_usd must be above 0 and needs a price, got {self.budget_usd} and the price {self.price}"
            )
        if self.trials < 1 or self.max_concurrency < 1 or (self.num_tasks is not None and self.num_tasks < 1):
            raise ValueError(
                "trials, max_concurrency and num_tasks must be at least 1, "
                f"got {self.trials}, {self.max_concurrency} and {self.num_tasks}"
            )


def choose_tasks(env: Env, config: BenchConfig) -> list[Task]:
    """The tasks of a benchmark. Raises: ConfigError if there are not enough; TaskError if there is no such split."""
    if config.split not in env.tasks.splits:
        raise TaskError(
            f"no split {config.split!r}.{did_you_mean(config.split, env.tasks.splits)} Choose another split, or give "
            f"{type(env).__name__} tasks under that name"
        )
    tasks = env.tasks.split(config.split)
    if config.num_tasks is None:
        chosen = list(tasks)
    elif config.num_tasks > len(tasks):
        raise ConfigError(f"split {config.split!r} has {len(tasks)} tasks, {config.num_tasks} wanted: ask for fewer")
    else:
        order = np.random.default_rng(config.seed).permutation(len(tasks))
        chosen = [tasks[i] for i in order[: config.num_tasks]]
    if not chosen:
        raise ConfigError(f"split {config.split!r} has no tasks")
    return chosen


HEADLINE: tuple[Measure, ...] = (Success(), SuccessOfAttempted(), Reward())
"""The measures of the main table; their names are keys of the JSON form."""


@dataclass(frozen=True)
class Effort:
    """What the scored episodes cost, on average per episode; nan where it is not known.

    Attributes:
        completion_tokens, prompt_tokens, cached_tokens: prompt tokens count again at every turn.
        tokens_per_success: sampled tokens over all episodes, failed ones included, for each success.
        policy_s, env_s: wall seconds spent waiting for the policy and for the environment.
        reasoning_tokens: those of the completion tokens that are thinking.
        latency_s: seconds for one answer of a server, without waits and failed tries.
    """

    turns: float
    completion_tokens: float
    prompt_tokens: float
    cached_tokens: float
    tokens_per_success: Estimate
    policy_s: float
    env_s: float
    reasoning_tokens: float = math.nan
    latency_s: float = math.nan


@dataclass(frozen=True)
class Score:
    """One policy's result.

    Attributes:
        headline: the answers of `HEADLINE`, by name.
        pass_at, pass_hat: pass@k and pass^k for k = 1, 2, 4, … and the number of trials, all over the same tasks: those
            that have as many scored trials as the largest k.
        pass_hat_attempted: pass^k of all tasks, with discarded episodes, and those with a second choice, as failures;
            empty where there is neither.
        components: the reward's named parts, mean per episode.
        counts: how the episodes ended: attempted = scored + discarded.
        n_planned: episodes asked for; more than `n_episodes + n_faults` where the run was interrupted.
        truncated: episodes that a limit cut off, by limit; they are scored.
        faults: causes of discarded episodes; those are not scored.
        malformed_calls: tool calls that could not be read.
        measures: the answers of further measures that were asked for, by name.
    """

    headline: Mapping[str, Measured]
    pass_at: Mapping[int, Estimate]
    pass_hat: Mapping[int, Estimate]
    components: Mapping[str, Estimate]
    n_tasks: int
    counts: Counts
    n_planned: int
    truncated: Mapping[str, int]
    faults: Mapping[str, int]
    tools: Mapping[str, ToolStatistics]
    malformed_calls: int
    effort: Effort
    measures: Mapping[str, Measured] = field(default_factory=dict)
    pass_hat_attempted: Mapping[int, Estimate] = field(default_factory=dict)

    @property
    def success(self) -> Estimate:
        return self.headline["success"].estimate

    @property
    def reward(self) -> Estimate:
        return self.headline["reward"].estimate

    @property
    def of_attempted(self) -> Estimate:
        """The success rate, with discarded episodes, and those with a second choice, as failures."""
        return self.headline["success_of_attempted"].estimate

    @property
    def n_episodes(self) -> int:
        return self.counts.scored

    @property
    def n_faults(self) -> int:
        return self.counts.num_discarded

    @property
    def denominators(self) -> dict[str, dict[str, Any]]:
        """Of which episodes, and how many, each share is: discarded ones count in one of them."""
        whole = next(iter(self.pass_at.values()), None)
        return {
            "success": {"of": "scored episodes", "episodes": self.n_episodes, "tasks": self.success.n},
            "success_of_attempted": {
                "of": "attempted episodes, discarded ones as failures",
                "episodes": self.counts.attempted,
                "tasks": self.of_attempted.n,
            },
            "pass": {
                "of": f"tasks with {max(self.pass_at, default=0)} scored trials",
                "tasks": whole.n if whole is not None else 0,
            },
        }

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; `measures` is a key of it only if further measures were asked for."""
        record = {
            **{name: answer.estimate.to_json() for name, answer in self.headline.items()},
            "pass_at_k": {str(k): estimate.to_json() for k, estimate in self.pass_at.items()},
            "pass_hat_k": {str(k): estimate.to_json() for k, estimate in self.pass_hat.items()},
            "reward_components": {name: estimate.to_json() for name, estimate in self.components.items()},
            "n_tasks": self.n_tasks,
            "n_episodes": self.n_episodes,
            "n_planned": self.n_planned,
            "n_faults": self.n_faults,
            "denominators": self.denominators,
            **self.counts.to_json(),
            "faults": dict(self.faults),
            "truncated": dict(self.truncated),
            "malformed_calls": self.malformed_calls,
            "tools": {name: asdict(statistics) for name, statistics in self.tools.items()},
            "effort": _effort_to_json(self.effort),
        }
        if self.pass_hat_attempted:
            hats = self.pass_hat_attempted.items()
            record["pass_hat_k_of_attempted"] = {str(k): estimate.to_json() for k, estimate in hats}
        if self.measures:
            record["measures"] = {name: answer.to_json() for name, answer in self.measures.items()}
        return record


@dataclass(frozen=True)
class BenchResult:
    """A benchmark of one policy on one environment, with its references.

    Attributes:
        status: `interrupted` results hold what had been played.
        references: scores of `null` and `oracle` on the same tasks, where they were played.
        wall_s: seconds of this call; episodes from an earlier call are not in it.
        cost_usd: of the final episodes on record, by the price of the configuration; None without one.
        judged: what a judge says of the scored episodes; None where none was asked.
        out: the folder of the records, if there is one.
        trajectories: the policy's final episodes, faults included.
        sampling: what was sent with every turn, seeds aside; None where the policy takes none.
        versions: of AgentRL, Python, the environment, and torch and transformers where they are loaded.
        started_at, ended_at: of the first and of this call; UTC, ISO 8601.
        provenance: machine, command line and git revision; None where it was not asked for.
        scored_by: what scored the episodes again, and which; None for the environment that they were played in.
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
    sampling: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    started_at: str = ""
    ended_at: str = ""
    cost_usd: float | None = None
    scored_by: Mapping[str, Any] | None = None
    provenance: Provenance | None = None
    judged: Judged | None = None

    @property
    def record(self) -> BenchRecord:
        """What a comparison needs of this result; the same comes back from its summary."""
        return BenchRecord(
            env=self.env,
            policy=self.policy,
            split=self.config.split,
            seed=self.config.seed,
            status=self.status,
            tasks=task_results(self.trajectories),
            sampling=self.sampling,
            versions=self.versions,
            scored_by=self.scored_by,
        )

    @property
    def served_models(self) -> dict[str, int]:
        """How many turns came from which model, as the server names it in its replies; the most frequent first."""
        return served_models(self.trajectories)

    @property
    def warnings(self) -> list[str]:
        """Why the score cannot be trusted; empty where it can."""
        found = [self.score.counts.warning, None if self.judged is None else self.judged.warning]
        return [warning for warning in found if warning]

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold: `tasks` has every episode's result, without its messages."""
        return {
            "status": self.status,
            "env": asdict(self.env),
            "policy": self.policy,
            "config": asdict(self.config),
            "sampling": self.sampling,
            "versions": dict(self.versions),
            "served_models": self.served_models,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "provenance": None if self.provenance is None else asdict(self.provenance),
            **({} if self.scored_by is None else {"scored_by": dict(self.scored_by)}),
            "warnings": self.warnings,
            **self.score.to_json(),
            "references": {name: score.to_json() for name, score in self.references.items()},
            "wall_s": round(self.wall_s, 3),
            "cost_usd": self.cost_usd,
            **({} if self.judged is None else {"judge": self.judged.to_json()}),
            "out": self.out,
            "tasks": tasks_to_json(self.record.tasks),
        }


def score_of(
    trajectories: Sequence[Trajectory], *, trials: int, n_planned: int, measures: Sequence[Measure] = ()
) -> Score:
    """Score the final trajectories of one policy; discarded ones are counted and left out.

    Args:
        trials: asked for per task; the largest k of pass@k and pass^k.
        n_planned: episodes asked for.
        measures: further ones to compute.
    """
    counting = scored(trajectories)
    largest, whole = complete_episodes(trajectories, trials)
    largest = max(largest, 1)
    ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, largest) if k <= largest})
    counts = Counts.of(trajectories)
    differs = bool(counts.num_discarded or counts.asked_anew)
    components = dict.fromkeys(name for t in counting for name in t.reward_components)
    return Score(
        headline=measured(HEADLINE, trajectories),
        pass_at={k: PassAt(k)(whole) for k in ks},
        pass_hat={k: PassHat(k)(whole) for k in ks},
        pass_hat_attempted={k: pass_hat_of_attempted(trajectories, k) for k in ks if differs},
        components={name: Component(name)(trajectories) for name in components},
        n_tasks=len(outcomes(trajectories)),
        counts=counts,
        n_planned=n_planned,
        truncated=truncations(counting),
        faults=fault_causes(trajectories),
        tools=tool_statistics(counting),
        malformed_calls=sum(map(num_malformed_calls, counting)),
        effort=_effort(trajectories),
        measures=measured(measures, trajectories),
    )


def _effort(trajectories: Sequence[Trajectory]) -> Effort:
    return Effort(
        turns=Turns()(trajectories).mean,
        completion_tokens=CompletionTokens()(trajectories).mean,
        prompt_tokens=PromptTokens()(trajectories).mean,
        cached_tokens=CachedTokens()(trajectories).mean,
        tokens_per_success=TokensPerSuccess()(trajectories),
        policy_s=PolicySeconds()(trajectories).mean,
        env_s=EnvSeconds()(trajectories).mean,
        reasoning_tokens=ReasoningTokens()(trajectories).mean,
        latency_s=LatencySeconds()(trajectories).mean,
    )


def _effort_to_json(effort: Effort) -> dict[str, Any]:
    record: dict[str, Any] = {"tokens_per_success": effort.tokens_per_success.to_json()}
    for name in (one.name for one in fields(effort) if one.name != "tokens_per_success"):
        value = getattr(effort, name)
        record[name] = round(value, 6) if math.isfinite(value) else None
    return record
