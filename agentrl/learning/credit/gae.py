"""Generalised advantage estimation over turns or tokens, with the targets of the value head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.config import Fraction, Share
from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import discounted_sums, over_the_step
from agentrl.trajectory import Trajectory, TrajectoryGroup


@dataclass(frozen=True)
class _GAE(Credit):
    """The settings and the computation that both levels share.

    Attributes:
        gamma: discount per turn or token.
        lam: weight between one step (0) and the whole return (1).
        whiten: subtract the mean of the step's advantages and divide by their standard deviation.
        at_limit: what an episode that a limit cut off is worth after its last step. `zero` treats the limit as part of
            the task: who does not finish has failed. `value` takes what was predicted before the last step, the last
            state that the value head saw, for limits that are not the task's own.
            Source: Pardo et al. 2018, arXiv:1712.00378 (time limits in reinforcement learning).
    """

    gamma: Share = 1.0
    lam: Fraction = 0.95
    whiten: bool = False
    at_limit: Literal["zero", "value"] = "zero"

    @property
    def needs_values(self) -> bool:
        return True

    @property
    def compares(self) -> bool:
        return False

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        if values is None:
            raise ValueError(f"{type(self).__name__} needs predicted returns: fill the column 'values' first")
        advantages, returns = [], []
        for group, predicted in zip(groups, values, strict=True):
            found = [self._of(t, v) for t, v in zip(group.trajectories, predicted, strict=True)]
            advantages.append([a for a, _ in found])
            returns.append([r for _, r in found])
        return Advantages(self._whitened(groups, advantages) if self.whiten else advantages, returns)

    def _whitened(self, groups: Sequence[TrajectoryGroup], advantages: PerTrajectory) -> PerTrajectory:
        """Advantages of the episodes that train, standardised over the step."""
        trains = [[t.trains for t in group.trajectories] for group in groups]
        taught = [
            a for own, flags in zip(advantages, trains, strict=True) for a, f in zip(own, flags, strict=True) if f
        ]
        found = iter(over_the_step(taught))
        return [
            [next(found) if flag else array for array, flag in zip(own, flags, strict=True)]
            for own, flags in zip(advantages, trains, strict=True)
        ]

    def _of(self, trajectory: Trajectory, values: Floats) -> tuple[Floats, Floats]:
        if not trajectory.trains:
            return np.zeros(len(values)), np.zeros(len(values))
        bootstraps = self.at_limit == "value" and trajectory.status == "truncated" and len(values) > 0
        after = float(values[-1]) if bootstraps else 0.0
        return gae(self._rewards(trajectory), values, gamma=self.gamma, lam=self.lam, bootstrap=after)

    @abstractmethod
    def _rewards(self, trajectory: Trajectory) -> Floats:
        """(S,) reward of each turn or token."""


@dataclass(frozen=True)
class TurnGAE(_GAE):
    """One advantage a turn; the value of a turn is what is predicted before its first token. Source: `gae`."""

    def _rewards(self, trajectory: Trajectory) -> Floats:
        return np.array([turn.reward for turn in trajectory.turns], np.float64)


@dataclass(frozen=True)
class TokenGAE(_GAE):
    """One advantage a sampled token; a turn's reward comes at its last token. Source: `gae`.

    `lam` is 1 here, as in verl's PPO: below 1 the reward at the end fades over the tokens before it while the value
    head has not learnt yet, and `whiten` then makes the early tokens of good and bad episodes alike look bad.
    """

    lam: Fraction = 1.0

    @property
    def level(self) -> Literal["turn", "token"]:
        return "token"

    def _rewards(self, trajectory: Trajectory) -> Floats:
        rewards: list[float] = []
        for turn in trajectory.turns:
            rewards += [0.0] * len(turn.action.token_ids or ())
            if rewards:  # a turn without tokens adds to the last token before it
                rewards[-1] += turn.reward
        return np.array(rewards, np.float64)


def gae(
    rewards: Sequence[float] | Floats,
    values: Sequence[float] | Floats,
    *,
    gamma: float,
    lam: float,
    bootstrap: float = 0.0,
) -> tuple[Floats, Floats]:
    """Generalised advantage estimation over the S steps (turns or tokens) of one trajectory.

    Args:
        rewards: (S,) reward of each step.
        values: (S,) predicted return before each step.
        gamma, lam: discount per step, and the weight between one step (0) and the whole return (1).
        bootstrap: predicted return after the last step; 0 where the episode is over.
    Returns: (S,) advantages, and (S,) targets for the value function.
    Raises: ValueError if the shapes differ or are not (S,).
    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    if rewards.shape != values.shape or rewards.ndim != 1:
        raise ValueError(f"rewards and values must have the same shape (S,), got {rewards.shape} and {values.shape}")
    deltas = rewards + gamma * np.append(values[1:], bootstrap) - values if len(values) else rewards
    advantages = discounted_sums(deltas, gamma * lam)
    return advantages, advantages + values
