"""GiGPO: a group advantage of the episode, and one among turns that began in the same state."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.config import NotNegative, Share
from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import discounted_sums, standardized, turn_rewards, with_zeros
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class GiGPO(Credit):
    """Needs an environment with a `state_key`; without one it is GRPO. Source: `gigpo`.

    Attributes:
        gamma: discount per turn of the return that turns are compared by.
        step_weight: weight of the advantage among turns.
        normalize_std: divide both by the standard deviation of their group.
    """

    gamma: Share = 0.95
    step_weight: NotNegative = 1.0
    normalize_std: bool = True

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return Advantages([self._of(group) for group in groups])

    def _of(self, group: TrajectoryGroup) -> list[Floats]:
        found = gigpo(
            turn_rewards(group),
            state_keys(group),
            gamma=self.gamma,
            step_weight=self.step_weight,
            normalize_std=self.normalize_std,
        )
        return with_zeros(group, found)


def gigpo(
    rewards: Sequence[Sequence[float] | Floats],
    keys: Sequence[Sequence[str | None]],
    *,
    gamma: float,
    step_weight: float,
    normalize_std: bool,
) -> list[Floats]:
    """Group advantage of the episode, plus one among all turns that began in the same state.

    Args:
        rewards: of ONE group: per trajectory, (turns,) rewards.
        keys: per trajectory, the `Turn.state_key` of each turn; None belongs to no state group.
        gamma: discount per turn of the return that turns are compared by.
        step_weight: weight of the second advantage.
        normalize_std: divide both by the standard deviation of their group.
    Returns: per trajectory, (turns,) float64. A state seen once adds 0.
    Source: Feng et al. 2025, arXiv:2505.10978, section 4 (GiGPO).
    """
    steps = [np.asarray(turns, np.float64) for turns in rewards]
    if [len(turns) for turns in steps] != [len(own) for own in keys]:
        raise ValueError("rewards and keys must have the same number of turns in each trajectory")
    episode = standardized([turns.sum() for turns in steps], normalize_std)
    advantages = [np.full(len(turns), value) for turns, value in zip(steps, episode, strict=True)]
    returns = [discounted_sums(turns, gamma) for turns in steps]
    for members in anchor_groups(keys):
        relative = standardized([returns[i][t] for i, t in members], normalize_std)
        for (i, t), value in zip(members, relative, strict=True):
            advantages[i][t] += step_weight * value
    return advantages


def state_keys(group: TrajectoryGroup) -> list[list[str | None]]:
    """Per trajectory that trains, the `Turn.state_key` of each turn."""
    return [[turn.state_key for turn in t.turns] for t in group.trajectories if t.trains]


def anchor_groups(keys: Sequence[Sequence[Hashable | None]]) -> list[list[tuple[int, int]]]:
    """(trajectory, turn) of the turns that share a key, one list per key; None belongs to none."""
    groups: dict[Hashable, list[tuple[int, int]]] = {}
    for i, own in enumerate(keys):
        for t, key in enumerate(own):
            if key is not None:
                groups.setdefault(key, []).append((i, t))
    return list(groups.values())


def with_first_states(keys: Sequence[Sequence[Hashable | None]]) -> list[list[Hashable | None]]:
    """The keys, with one key shared by all first turns that have none: the episodes of a group begin alike."""
    return [[_FIRST if key is None and t == 0 else key for t, key in enumerate(own)] for own in keys]


_FIRST = ("the first turn of a group", 0)  # no environment's key is a tuple
