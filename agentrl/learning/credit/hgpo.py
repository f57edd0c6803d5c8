"""HGPO: turns are compared with those of the same state, and of ever longer equal histories."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.config import NotNegative, Share, Whole
from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.gigpo import anchor_groups, state_keys, with_first_states
from agentrl.learning.credit.returns import discounted_sums, standardized, turn_rewards, with_zeros
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class HGPO(Credit):
    """Needs an environment with a `state_key`. Source: `hgpo`.

    Attributes:
        gamma: discount per turn of the return that turns are compared by.
        history: most states before the present one by which turns are told apart; 0 compares by state alone.
        alpha: how strongly a longer equal history counts: a group of history k has the weight (k + 1) ** alpha.
        with_episode: count the advantage of the whole episode among its group as one more, of the smallest weight.
        normalize_std: divide by the standard deviation of each group.
    """

    gamma: Share = 0.95
    history: Whole = 2
    alpha: NotNegative = 1.0
    with_episode: bool = False
    normalize_std: bool = True

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return Advantages([self._of(group) for group in groups])

    def _of(self, group: TrajectoryGroup) -> list[Floats]:
        found = hgpo(
            turn_rewards(group),
            state_keys(group),
            gamma=self.gamma,
            history=self.history,
            alpha=self.alpha,
            with_episode=self.with_episode,
            normalize_std=self.normalize_std,
        )
        return with_zeros(group, found)


def hgpo(
    rewards: Sequence[Sequence[float] | Floats],
    keys: Sequence[Sequence[str | None]],
    *,
    gamma: float,
    history: int,
    alpha: float,
    with_episode: bool,
    normalize_std: bool,
) -> list[Floats]:
    """Weighted mean of a turn's advantages among the turns that share its last 1, 2, ... states.

    A group in which the turn's advantage is 0 (alone, equal returns) is left out of the mean, as in the authors' code:
    a longer history without a comparison does not thin out what a shorter one says.

    Args:
        rewards: of ONE group: per trajectory, (turns,) rewards.
        keys: per trajectory, the `Turn.state_key` of each turn. A first turn without one shares the state of the other
            first turns; another turn without one, and a history that holds it, belongs to no group.
        gamma: discount per turn of the return that turns are compared by.
        history: most states before the present one.
        alpha: exponent of the weight L ** alpha, where L - 1 states are shared and 1 stands for the episode.
        with_episode: add the advantage of the episode, with L = 1.
        normalize_std: divide by the standard deviation (of the population, as the authors' code does) of each group.
    Returns: per trajectory, (turns,) float64.
    Raises: ValueError if rewards and keys have different numbers of turns.
    Source: He et al. 2026, arXiv:2602.22817 (HGPO, ICLR), with recipe/hgpo of the authors' code for the weights.
    """
    steps = [np.asarray(turns, np.float64) for turns in rewards]
    if [len(turns) for turns in steps] != [len(own) for own in keys]:
        raise ValueError("rewards and keys must have the same number of turns in each trajectory")
    episode = standardized([turns.sum() for turns in steps], normalize_std)
    returns = [discounted_sums(turns, gamma) for turns in steps]
    sums = [np.full(len(turns), value if with_episode else 0.0) for turns, value in zip(steps, episode, strict=True)]
    weights = [(total != 0.0).astype(np.float64) for total in sums]
    known = with_first_states(keys)
    for length in range(1, history + 2):
        weight = float(length + 1) ** alpha
        for members in anchor_groups([_histories(own, length) for own in known]):
            relative = standardized([returns[i][t] for i, t in members], normalize_std, ddof=0)
            for (i, t), value in zip(members, relative, strict=True):
                if value != 0.0:
                    sums[i][t] += weight * value
                    weights[i][t] += weight
    return [total / np.where(weight > 0, weight, 1.0) for total, weight in zip(sums, weights, strict=True)]


def _histories(keys: Sequence[Hashable | None], length: int) -> list[tuple[Hashable, ...] | None]:
    """Each turn's last `length` states, its own included; None where there are fewer, or one has no key."""
    histories: list[tuple[Hashable, ...] | None] = []
    for t in range(len(keys)):
        window = keys[t + 1 - length : t + 1] if t + 1 >= length else ()
        known = tuple(key for key in window if key is not None)
        histories.append(known if len(known) == length else None)
    return histories
