"""The control of the learning table: advantages that belong to other episodes. Imported by the runs that use it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from agentrl.learning.credit.base import Advantages, PerTrajectory
from agentrl.learning.credit.group_relative import GRPO
from agentrl.trajectory import TrajectoryGroup


@dataclass(frozen=True)
class ShuffledGRPO(GRPO):
    """The control: advantages of GRPO, handed to other trajectories of the step than those that earned them."""

    def __call__(self, groups: list[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        made = super().__call__(groups, values)
        earned = [float(one[0]) if len(one) else 0.0 for group in made.advantages for one in group]
        shuffled = iter(np.random.default_rng(len(earned)).permutation(earned).tolist())
        return dataclasses.replace(
            made, advantages=[[np.full(len(one), next(shuffled)) for one in group] for group in made.advantages]
        )
