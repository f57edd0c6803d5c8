"""Rewards that compare the predicted numbers of a group: CRPS, and each answer's effect on the aggregate's error.

Errors are in standard deviations of the training numbers, as in the environment's own reward. Episodes without a
prediction, faults and greedy episodes keep their rewards and count in no group.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from agentrl.rollout.feedback.base import Feedback, rewarded
from agentrl.rollout.predictions import mean_distances, prediction_of
from agentrl.trajectory import Trajectory, TrajectoryGroup

Floats = npt.NDArray[np.float64]
_FARTHEST = 1e6
"""Standard deviations from the target that a number may be away."""
_AGGREGATES: dict[str, Callable[[Floats], float]] = {
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(np.median(values)),
}


@dataclass(frozen=True)
class _GroupNumbers(Feedback):
    """Adds a reward to the last turn of each episode of a group, as a named part. Success stays the environment's.

    Attributes:
        weight: of the added reward.
        keep: factor of the environment's own rewards; 0 leaves the added one alone.
    """

    part: ClassVar[str]
    weight: float = 1.0
    keep: float = 0.0

    @abstractmethod
    def added(self, samples_G: Floats, target: float) -> Floats:
        """(G,) reward of each answer. Args: samples_G: (G,) the answers of one group, at least one."""

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [replace(group, trajectories=self._of_group(group.trajectories)) for group in groups]

    def _of_group(self, episodes: Sequence[Trajectory]) -> list[Trajectory]:
        known = {i: found for i, t in enumerate(episodes) if t.trains and t.turns and (found := prediction_of(t))}
        if not known:
            return list(episodes)
        scale = next(iter(known.values())).scale
        target = next(iter(known.values())).target / scale
        added = self.added(_bounded(np.array([found.value for found in known.values()]) / scale, target), target)
        rewards = dict(zip(known, added.tolist(), strict=True))
        return [self._rewarded(t, rewards[i]) if i in rewards else t for i, t in enumerate(episodes)]

    def _rewarded(self, episode: Trajectory, added: float) -> Trajectory:
        return rewarded(episode, self.part, added, weight=self.weight, keep=self.keep)


def _bounded(samples_G: Floats, target: float) -> Floats:
    """The samples, where one that is no number is as far from the target as the farthest, and at least one unit.

    A huge one is as far as its square can be computed: otherwise no episode of the group would have a reward.
    """
    distances_G = np.minimum(np.abs(samples_G - target), _FARTHEST)
    known_G = np.isfinite(samples_G)
    farthest = max(1.0, float(distances_G[known_G].max(initial=0.0)))
    signs_G = np.where(samples_G < target, -1.0, 1.0)
    near_G = known_G & (distances_G < _FARTHEST)
    return np.where(near_G, samples_G, target + signs_G * np.where(known_G, distances_G, farthest))


@dataclass(frozen=True)
class RewardCRPS(_GroupNumbers):
    """Teaches the distribution: the policy gradient is that of minus the CRPS. Source: `crps_rewards`."""

    part = "crps"

    def added(self, samples_G: Floats, target: float) -> Floats:
        return crps_rewards(samples_G, target)


@dataclass(frozen=True)
class RewardLeaveOneOut(_GroupNumbers):
    """Rewards an answer by how much larger the squared error of the group's aggregate were without it.

    Attributes:
        aggregate: `mean` or `median` of the group's answers.
    """

    part = "leave_one_out"
    aggregate: Literal["mean", "median"] = "mean"

    def added(self, samples_G: Floats, target: float) -> Floats:
        return leave_one_out_rewards(samples_G, target, self.aggregate)


def crps_rewards(samples_G: Floats, target: float) -> Floats:
    """Minus the distance of each sample from the target, plus its mean distance from the other samples.

    CRPS(p) = E|X - y| - E|X - X'| / 2, and both X and X' are samples of p: in the gradient of the second term each
    sample's log-probability has its whole distance from the others as its factor.

    Args: samples_G: (G,) of one distribution.
    Returns: (G,). A single sample has minus its distance from the target.
    Source: Gneiting and Raftery 2007, JASA 102(477), eq. 21, for the score.
    """
    return mean_distances(samples_G) - np.abs(samples_G - target)


def leave_one_out_rewards(samples_G: Floats, target: float, aggregate: Literal["mean", "median"]) -> Floats:
    """(aggregate without the sample - target)² - (aggregate of all - target)².

    Returns: (G,); 0 for a single sample, without which there is no aggregate.
    """
    if len(samples_G) == 1:
        return np.zeros(1)
    of = _AGGREGATES[aggregate]
    whole = (of(samples_G) - target) ** 2
    return np.array([(of(np.delete(samples_G, i)) - target) ** 2 - whole for i in range(len(samples_G))])
