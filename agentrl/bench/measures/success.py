"""Measures of how well the tasks are solved: success, reward and its components, pass@k and pass^k.

Discarded episodes are left out, except in `SuccessOfAttempted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.bench.estimates import Estimate, ValuesByTask, clustered_mean, clustered_proportion, pass_at_k, pass_hat_k
from agentrl.bench.measures.base import SHARE, Measure, PerEpisode, by_task, scored
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Success(PerEpisode):
    """The mean over tasks of each task's success rate."""

    name = "success"
    unit = SHARE

    def of(self, episode: Trajectory) -> float:
        return float(episode.success)

    def estimate(self, values_by_task: ValuesByTask) -> Estimate:
        return clustered_proportion(values_by_task)


@dataclass(frozen=True)
class SuccessOfAttempted(Success):
    """The mean over tasks of each task's success rate, where a discarded episode counts as a failure."""

    name = "success_of_attempted"

    def values_by_task(self, episodes: Sequence[Trajectory]) -> dict[str, list[float]]:
        return by_task(episodes, self.of)


@dataclass(frozen=True)
class Reward(PerEpisode):
    """The mean over tasks of each task's mean reward."""

    name = "reward"
    unit = "reward"

    def of(self, episode: Trajectory) -> float:
        return episode.reward

    def estimate(self, values_by_task: ValuesByTask) -> Estimate:
        return clustered_mean(values_by_task)


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

    def estimate(self, values_by_task: ValuesByTask) -> Estimate:
        return clustered_mean(values_by_task)


@dataclass(frozen=True)
class PassAt(Measure):
    """pass@k: the chance that at least one of k trials succeeds; tasks with fewer than k scored trials are left out."""

    k: int
    unit = SHARE

    def __post_init__(self) -> None:
        check_k(self.k)

    @property
    def name(self) -> str:
        return f"pass_at:{self.k}"

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        return pass_at_k(outcomes(episodes), self.k)


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
        return pass_hat_k(outcomes(episodes), self.k)


def check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")


def outcomes(episodes: Sequence[Trajectory]) -> list[list[bool]]:
    """Whether each scored episode succeeded, task by task."""
    return [[bool(value) for value in values] for values in by_task(scored(episodes), Success().of).values()]
