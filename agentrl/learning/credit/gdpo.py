"""GDPO: each named part of the reward is normalised within its group by itself, so that none drowns another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.credit.returns import Ragged, over_the_step, standardized, with_zeros
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class GDPO(Credit):
    """Needs an environment that names the parts of its reward; without parts it is GRPO. Source: `gdpo`.

    Attributes:
        weights: of the parts by name; a part that is not named weighs 1.
        batch_norm: normalise the sum over the step.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    batch_norm: bool = True

    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        taught = [[t for t in group.trajectories if t.trains] for group in groups]
        parts = [[t.reward_components or {"": t.reward} for t in group] for group in taught]
        names = sorted({name for group in parts for own in group for name in own})
        returns = {name: [[own.get(name, 0.0) for own in group] for group in parts] for name in names}
        found = gdpo(returns, self.weights, batch_norm=self.batch_norm) if names else [np.zeros(0) for _ in groups]
        spread = [
            [np.full(len(t.turns), a) for t, a in zip(group, own, strict=True)]
            for group, own in zip(taught, found, strict=True)
        ]
        return Advantages([with_zeros(group, own) for group, own in zip(groups, spread, strict=True)])

    def teaches(self, group: TrajectoryGroup) -> bool:
        one = GDPO(self.weights, batch_norm=False)
        return any(values.any() for values in one([group], None).advantages[0])


def gdpo(returns: Mapping[str, Ragged], weights: Mapping[str, float], *, batch_norm: bool) -> list[Floats]:
    """The weighted sum of the group-normalised parts of the return, normalised over the step.

    Args:
        returns: by name of the part: per group, one return per trajectory; at least one part.
        weights: of the parts by name; 1 where a name is missing.
        batch_norm: subtract the mean of the step and divide by its standard deviation.
    Returns: per group, (G,) float64.
    Source: Liu et al. 2026, arXiv:2601.05242, section 3 (GDPO).
    """
    parts = [
        [weights.get(name, 1.0) * standardized(group, True) for group in groups] for name, groups in returns.items()
    ]
    sums: list[Floats] = [np.sum(own, axis=0) for own in zip(*parts, strict=True)]
    return over_the_step(sums) if batch_norm else sums
