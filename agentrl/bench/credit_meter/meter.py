"""The credit meter as callers use it: an environment and a policy in, the figures of estimators out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrl.bench.credit_meter.figures import Figure, Figures, figures_of
from agentrl.bench.credit_meter.points import points_of
from agentrl.bench.credit_meter.samples import MeterSettings, Truth, play
from agentrl.bench.evaluate import Which, env_maker
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.credit.base import CREDITS, Credit
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.runner import Rollouts
from agentrl.trajectory import Task, Trajectory

# Those that need neither a value head nor named parts of the reward.
ESTIMATORS = (
    "reinforce",
    "return_batch_norm",
    "reinforce_plus_plus",
    "remax",
    "rloo",
    "dr_grpo",
    "grpo",
    "gigpo",
    "hgpo",
    "gagpo",
    "forked",
)
_BY_STATE = ("gigpo", "hgpo", "gagpo")


@dataclass(frozen=True)
class CreditReport:
    """What the credit meter found.

    Attributes:
        rows: the estimators, the one that costs the fewest tokens for a given precision first.
        num_tasks: tasks that were measured.
        num_episodes, num_tokens: what was played, continuations included; sampled tokens.
        wall_s: seconds.
        notes: what a reader must know.
    """

    rows: Sequence[Figures]
    settings: MeterSettings
    num_tasks: int
    num_episodes: int
    num_tokens: int
    wall_s: float
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return {
            "estimators": [row.to_json() for row in self.rows],
            "settings": {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__},
            "tasks": self.num_tasks,
            "episodes": self.num_episodes,
            "sampled_tokens": self.num_tokens,
            "wall_s": self.wall_s,
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """The table, and how to read it."""
        played = f"{self.num_tasks} tasks, {self.rows[0].points} turns, {self.num_episodes} episodes played"
        lines = [table(self.rows), "", f"{played}, {self.num_tokens} tokens sampled, {self.wall_s:.0f} s", _LEGEND]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


async def ameasure_credit(
    env: Which,
    policy: Policy,
    *,
    num_tasks: int = 16,
    split: str = "train",
    estimators: Sequence[str | Credit] = ESTIMATORS,
    settings: MeterSettings | None = None,
    sampling: SamplingParams | None = None,
    seed: int = 0,
    max_concurrency: int = 64,
    truth: Truth | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> CreditReport:
    """Measure how near estimators come to the true advantages of turns.

    Episodes are played, and each of their states is continued many times. The true advantage of a turn is its reward,
    plus the mean return from the state after it, minus that from the state before it. Each estimator then judges the
    turn in groups that are put together anew from other continuations, so that its bias and its noise come apart.

    Args:
        env: an environment that is a function of its task, seed and actions.
        policy: plays; stays open. It must sample: a policy that always does the same has no advantages.
        num_tasks, split: tasks that are measured, one episode each.
        estimators: names, or estimators with settings; none that needs a value head.
        settings: how much is played.
        sampling: of every turn; by default the policy's own.
        seed: of the episodes and the draws.
        truth: exact advantages, where they are known.
        on_progress: called with the number of episodes that have ended.
    Raises: ConfigError for an estimator that cannot be measured; TaskError for a split that does not exist;
        RolloutError if almost nothing but faults came back, or no task could be measured.
    """
    settings, began = settings or MeterSettings(), time.perf_counter()
    credits = _credits_of(estimators)
    tally = _Tally(on_progress)
    async with Rollouts(
        env, policy, max_concurrency=max_concurrency, sampling=sampling, on_trajectory=tally
    ) as rollouts:
        tasks, keyed = _tasks_of(env_maker(env), split)
        samples = await play(rollouts, tasks[:num_tasks], settings, seed)
    rows = [
        figures_of(name, points_of(credit, samples, settings, seed=seed, truth=truth))
        for name, credit in credits.items()
    ]
    rows.sort(key=lambda row: row.cost if math.isfinite(row.cost) else math.inf)
    notes = []
    if not keyed and any(name in credits for name in _BY_STATE):
        notes.append(f"the environment has no state_key, so {', '.join(_BY_STATE)} see no states to compare")
    if math.isnan(rows[0].scale.value):
        notes.append("the true advantages cannot be told from 0: every action is about as good, or the play too short")
    return CreditReport(
        rows, settings, len(samples), tally.episodes, tally.tokens, time.perf_counter() - began, tuple(notes)
    )


def measure_credit(env: Which, policy: Policy, **options: Any) -> CreditReport:
    """`ameasure_credit` for programs without an event loop.

    Args: env, policy, options: as there.
    """
    return asyncio.run(ameasure_credit(env, policy, **options))


class _Tally:
    """Counts the episodes and tokens that were played."""

    def __init__(self, on_progress: Callable[[int], None] | None) -> None:
        self.episodes, self.tokens, self._on_progress = 0, 0, on_progress

    def __call__(self, trajectory: Trajectory) -> None:
        self.episodes += 1
        self.tokens += trajectory.num_sampled_tokens
        if self._on_progress is not None:
            self._on_progress(self.episodes)


def _credits_of(estimators: Sequence[str | Credit]) -> Mapping[str, Credit]:
    credits: dict[str, Credit] = {}
    for given in estimators:
        name = given if isinstance(given, str) else CREDITS.name_of(type(given))
        made = CREDITS.find(given)() if isinstance(given, str) else given
        if made.needs_values:
            raise ConfigError(
                f"estimator {name!r} needs a value head, which a policy alone does not have: leave it out"
            )
        credits[name] = made
    if not credits:
        raise ConfigError(f"no estimators are given; there are {', '.join(ESTIMATORS)}")
    return credits


def _tasks_of(make: Callable[[], Env], split: str) -> tuple[Sequence[Task], bool]:
    """The tasks of a split, and whether the environment names its states."""
    env = make()
    try:
        return env.tasks.split(split), type(env.unwrapped).state_key is not Env.state_key  # type: ignore[attr-defined]
    finally:
        env.close()


def table(rows: Sequence[Figures]) -> str:
    """The figures as a Markdown table."""
    head = "| estimator | scale | unbiased | bias | noise | error | rank correlation | tokens a turn | error x tokens |"
    lines = [head, "|" + "---|" * 9]
    for row in rows:
        numbers = [_shown(getattr(row, name)) for name in ("bias", "noise", "error", "rank")]
        unbiased = "-" if math.isnan(row.scale.value) else "yes" if row.is_unbiased else "no"
        cells = [row.name, _shown(row.scale), unbiased, *numbers]
        lines.append(f"| {' | '.join(cells)} | {row.tokens:.1f} | {_plain(row.cost)} |")
    return "\n".join(lines)


def _shown(figure: Figure) -> str:
    return _plain(figure.value) + (f" ±{figure.error:.2f}" if math.isfinite(figure.error) else "")


def _plain(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


_LEGEND = """scale: slope of the estimates against the true advantages
unbiased: the scale is 1 within two standard errors (±); one unbiased estimator in twenty is outside by chance
bias, noise, error: after the scale is divided out, as shares of the true advantages' root mean square (error: squared)
rank correlation: Spearman's, of one estimate with the true advantage
error x tokens: what a given precision costs in sampled tokens; the lowest is the most frugal"""
