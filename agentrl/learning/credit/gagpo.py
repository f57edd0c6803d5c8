"""GAGPO: generalised advantage estimation with a value that is the mean return of the group's visits to a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.config import Fraction, Share
from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.gae import gae
from agentrl.learning.credit.gigpo import anchor_groups, state_keys, with_first_states
from agentrl.learning.credit.returns import discounted_sums, over_the_step, turn_rewards, with_zeros
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class GAGPO(Credit):
    """Critic-free; works best with an environment that has a `state_key`. Source: `gagpo`.

    The paper combines it with one importance ratio per action: objective = { kind = "gspo", sequence = "turn" }.

    Attributes:
        gamma: discount per turn.
        lam: weight between one step (0) and the whole return (1).
        normalize: divide by the standard deviation of the advantages of the group, after subtracting their mean.
    """

    gamma: Share = 0.95
    lam: Fraction = 0.95
    normalize: bool = True

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        return Advantages([self._of(group) for group in groups])

    def _of(self, group: TrajectoryGroup) -> list[Floats]:
        rewards = turn_rewards(group)
        found = gagpo(rewards, state_keys(group), gamma=self.gamma, lam=self.lam, normalize=self.normalize)
        return with_zeros(group, found)


def gagpo(
    rewards: Sequence[Sequence[float] | Floats],
    keys: Sequence[Sequence[str | None]],
    *,
    gamma: float,
    lam: float,
    normalize: bool,
) -> list[Floats]:
    """GAE over the turns of a group, each state's value being the mean return of the group's turns in that state.

    Args:
        rewards: of ONE group: per trajectory, (turns,) rewards.
        keys: per trajectory, the `Turn.state_key` of each turn. A first turn without a key shares the state of the
            other first turns, since a group begins alike; any other turn without one is a state of its own.
        gamma, lam: discount per turn, and the weight between one step and the whole return.
        normalize: standardise the advantages over all turns of the group.
    Returns: per trajectory, (turns,) float64.
    Raises: ValueError if rewards and keys have different numbers of turns.
    Source: Zhu et al. 2026, arXiv:2605.13217 (GAGPO): grouped value proxy, TD and GAE over it, normalisation within the
        group. Done by the definitions of its abstract, not compared with the authors' code.
    """
    steps = [np.asarray(turns, np.float64) for turns in rewards]
    if [len(turns) for turns in steps] != [len(own) for own in keys]:
        raise ValueError("rewards and keys must have the same number of turns in each trajectory")
    returns = [discounted_sums(turns, gamma) for turns in steps]
    values = [array.copy() for array in returns]
    for members in anchor_groups(with_first_states(keys)):
        mean = float(np.mean([returns[i][t] for i, t in members]))
        for i, t in members:
            values[i][t] = mean
    advantages = [gae(turns, own, gamma=gamma, lam=lam)[0] for turns, own in zip(steps, values, strict=True)]
    return over_the_step(advantages) if normalize else advantages
