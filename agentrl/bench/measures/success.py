"""Measures of how well the tasks are solved: success, reward and its components, pass@k and pass^k.

Discarded episodes are left out, except in `SuccessOfAttempted`, which no policy can raise by failing in a clever way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.bench.estimates import Estimate, ValuesByTask, clustered_mean, clustered_proportion
from agentrl.bench.measures.base import SHARE, Measure, PerEpisode, by_task, scored, task_families
from agentrl.bench.statistics.families import Families, families_of
from agentrl.bench.statistics.pass_rates import complete, pass_at_k, pass_hat_k
from agentrl.trajectory import Trajectory, follows_actions

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Success(PerEpisode):
    """The mean over tasks of each task's success rate."""

    name = "success"
    unit = SHARE

    def of(self, episode: Trajectory) -> float:
        return float(episode.success)

    def estimate(self, values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
        return clustered_proportion(values_by_task, families=families)


@dataclass(frozen=True)
class SuccessOfAttempted(Success):
    """The mean over tasks of each task's success rate, where a discarded episode counts as a failure.

    So does one in which a fault gave the model a second choice.
    """

    name = "success_of_attempted"

    def of(self, episode: Trajectory) -> float:
        return float(episode.success and not episode.labels.asked_anew)

    def values_by_task(self, episodes: Sequence[Trajectory]) -> dict[str, list[float]]:
        return by_task(episodes, self.of)


@dataclass(frozen=True)
class Reward(PerEpisode):
    """The mean over tasks of each task's mean reward."""

    name = "reward"
    unit = "reward"

    def of(self, episode: Trajectory) -> float:
        return episode.reward

    def estimate(self, values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
        return mean_of_rewards(values_by_task, families)


@dataclass(frozen=True)
class Component(PerEpisode):
    """The mean over tasks of a named part of the reward; an episode without that part counts as 0."""

    component: str
    unit = "reward"

    @property
    def name(self) -> str:
        return f"component:{self.component}"

    def of(self, episode: Trajectory) -> float:
        return episode.reward_components.get(self.component, 0.0)

    def estimate(self, values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
        return mean_of_rewards(values_by_task, families)


def mean_of_rewards(values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
    """The mean over tasks, with the interval that suits the values.

    Rewards of 0 and 1 are outcomes and have the interval of a success rate; so have equal ones within [0, 1], whose
    spread says nothing. Partial credit and unbounded rewards have Student's t over tasks.
    """
    values = [value for of_task in values_by_task for value in of_task]
    if not values:
        return clustered_mean(values_by_task)
    outcomes = all(value in (0, 1) for value in values)
    is_constant = max(values) - min(values) <= _ROUNDING and min(values) >= 0 and max(values) <= 1
    if outcomes or is_constant:
        return clustered_proportion(values_by_task, families=families)
    return clustered_mean(values_by_task, families=families)


@dataclass(frozen=True)
class PassAt(Measure):
    """pass@k: the chance that at least one of k trials succeeds; tasks with fewer than k counted trials are left out.

    Scored trials count, and those that were discarded after the model had acted count as failures: a policy could
    otherwise remove a task by losing one of its trials.
    """

    k: int
    unit = SHARE

    def __post_init__(self) -> None:
        check_k(self.k)

    @property
    def name(self) -> str:
        return f"pass_at:{self.k}"

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        won = won_of_tried(episodes)
        return pass_at_k(list(won.values()), self.k, families=families_of(list(won), task_families(episodes)))


@dataclass(frozen=True)
class PassHat(Measure):
    """pass^k: the chance that all of k trials succeed.

    A task with fewer than k scored trials counts as 0 if one of them failed, and is left out otherwise.
    """

    k: int
    unit = SHARE

    def __post_init__(self) -> None:
        check_k(self.k)

    @property
    def name(self) -> str:
        return f"pass_hat:{self.k}"

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        return pass_hat_k(outcomes(episodes), self.k, families=outcome_families(episodes))


def check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")


def outcomes(episodes: Sequence[Trajectory]) -> list[list[bool]]:
    """Whether each scored episode succeeded, task by task."""
    return [[bool(value) for value in values] for values in by_task(scored(episodes), Success().of).values()]


def won_of_tried(episodes: Sequence[Trajectory]) -> dict[str, list[bool]]:
    """Task id -> whether each episode succeeded: the scored ones, and those discarded after the model had acted."""
    tried = [t for t in episodes if t.ending.kind != "fault" or follows_actions(t)]
    return {task: [value > 0 for value in of_task] for task, of_task in by_task(tried, Success().of).items()}


def pass_hat_of_attempted(episodes: Sequence[Trajectory], k: int) -> Estimate:
    """pass^k of all tasks, with discarded episodes, and those with a second choice, as failures."""
    values = SuccessOfAttempted().values_by_task(episodes)
    won = [[value > 0 for value in of_task] for of_task in values.values()]
    return pass_hat_k(won, k, families=families_of(list(values), task_families(episodes)))


def outcome_families(episodes: Sequence[Trajectory]) -> Families:
    """The families of the tasks of `outcomes`, in their order."""
    tasks = dict.fromkeys(episode.task.id for episode in scored(episodes))
    return families_of(list(tasks), task_families(episodes))


def complete_episodes(episodes: Sequence[Trajectory], trials: int) -> tuple[int, list[Trajectory]]:
    """The episodes of one set of tasks for pass@k and pass^k of every k, and the largest k. Args: as `complete`."""
    won = won_of_tried(episodes)
    largest, kept = complete(list(won.values()), trials)
    tasks = list(won)
    chosen = {tasks[index] for index in kept}
    return largest, [episode for episode in episodes if episode.task.id in chosen]
