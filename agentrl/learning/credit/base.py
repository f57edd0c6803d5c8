"""The contract of credit estimators: returns of groups in, advantages out. Owns no rows and no model.

An estimator is added from outside as a frozen dataclass, or as a function of groups whose keyword-only parameters are
its settings: an entry point in the group `agentrl.credits`, or a reference `module:name`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentrl.config.field_checks import check_fields
from agentrl.registry import Registry, part_of_function
from agentrl.trajectory import Trajectory, TrajectoryGroup, counted_successes

Floats = npt.NDArray[np.float64]
PerTrajectory = Sequence[Sequence[Floats]]
"""Group -> trajectory -> (turns,) or (sampled tokens,)."""


@dataclass(frozen=True)
class Advantages:
    """The result of an estimator.

    Attributes:
        advantages: 0 for faults, greedy episodes and where nothing is to be learnt.
        returns: targets of a value head, if the estimator has any.
    """

    advantages: PerTrajectory
    returns: PerTrajectory | None = None


class Credit(ABC):
    """An estimator: a frozen dataclass of its own hyper-parameters; a pure function.

    Attributes:
        level: whether values and advantages have one number per turn or per sampled token.
        needs_values: whether it reads predicted returns.
        compares: whether it compares the episodes of a group, so that a group of one teaches nothing.
        needs_greedy: whether each group needs a greedy episode as a baseline.
        reads_forks: whether it reads episodes that continue others; any other estimator would take them for episodes of
            their own.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def level(self) -> Literal["turn", "token"]:
        return "turn"

    @property
    def needs_values(self) -> bool:
        return False

    @property
    def compares(self) -> bool:
        return True

    @property
    def needs_greedy(self) -> bool:
        return False

    @property
    def reads_forks(self) -> bool:
        return False

    @abstractmethod
    def __call__(self, groups: Sequence[TrajectoryGroup], values: PerTrajectory | None) -> Advantages:
        """The advantages of a step.

        Args:
            groups: of any size, faults and greedy episodes included.
            values: predicted returns in the estimator's level; None where it needs none.
        """

    def teaches(self, group: TrajectoryGroup) -> bool:
        """Whether an advantage of the group can be other than 0, which dynamic sampling asks before the step is whole.

        An estimator whose advantages depend on other groups, or on predicted returns, cannot know: then it does.
        """
        if not any(t.trains for t in group.trajectories):
            return False
        if self.needs_values or not (self.compares or self.needs_greedy):
            return True
        return any(values.any() for values in self([group], None).advantages[0])


class FunctionCredit(Credit):
    """The estimator of a function of groups that returns `Advantages`, or the advantages alone: one for each turn."""

    @property
    def compares(self) -> bool:
        return False


def _of_function(function: FunctionType) -> type:
    def call(self: Credit, function: Callable[..., Any], groups: Any, values: Any) -> Advantages:
        found = function(groups)
        return found if isinstance(found, Advantages) else Advantages(found)

    return part_of_function(function, FunctionCredit, "__call__", call)


CREDITS = Registry(
    "credit estimator",
    "agentrl.credits",
    {
        "grpo": "agentrl.learning.credit.group_relative:GRPO",
        "dr_grpo": "agentrl.learning.credit.group_relative:DrGRPO",
        "rloo": "agentrl.learning.credit.group_relative:RLOO",
        "reinforce_plus_plus": "agentrl.learning.credit.group_relative:ReinforcePlusPlus",
        "remax": "agentrl.learning.credit.remax:ReMax",
        "reinforce": "agentrl.learning.credit.reinforce:REINFORCE",
        "return_batch_norm": "agentrl.learning.credit.reinforce:ReturnBatchNorm",
        "rejection": "agentrl.learning.credit.rejection:Rejection",
        "gdpo": "agentrl.learning.credit.gdpo:GDPO",
        "gigpo": "agentrl.learning.credit.gigpo:GiGPO",
        "hgpo": "agentrl.learning.credit.hgpo:HGPO",
        "gagpo": "agentrl.learning.credit.gagpo:GAGPO",
        "turn_gae": "agentrl.learning.credit.gae:TurnGAE",
        "token_gae": "agentrl.learning.credit.gae:TokenGAE",
        "forked": "agentrl.learning.credit.forked:Forked",
    },
    of_function=_of_function,
)


def differs(group: TrajectoryGroup) -> bool:
    """Whether the sampled episodes' rewards are not all equal, so that comparing them teaches something."""
    return len({t.reward for t in group.trajectories if t.labels.mode != "greedy" and t.fork is None}) > 1


def most_spread(groups: Sequence[TrajectoryGroup], share: float) -> list[TrajectoryGroup]:
    """The share of the groups whose returns have the largest standard deviation, in their order; at least one.

    Args: share: above 0, at most 1.
    Source: Wang et al. 2025, arXiv:2504.20073, section 3.4 (StarPO-S: uncertainty-based filtering of trajectories).
    """
    spread = [np.std([t.reward for t in _whole(group)] or [0.0]) for group in groups]
    count = min(len(groups), max(1, round(share * len(groups))))
    kept = sorted(sorted(range(len(groups)), key=lambda i: -float(spread[i]))[:count])
    return [groups[i] for i in kept]


def pass_rate(group: TrajectoryGroup) -> float:
    """The share of the sampled episodes that solved the task, of those that `counted_successes` counts; 0 without any.

    Args: group: with its discarded episodes.
    """
    solved = counted_successes(t for t in group.trajectories if t.fork is None)
    return sum(solved) / len(solved) if solved else 0.0


def _whole(group: TrajectoryGroup) -> list[Trajectory]:
    """The episodes that train and that were played from the beginning."""
    return [t for t in group.trajectories if t.trains and t.fork is None]


def without_faults(group: TrajectoryGroup) -> TrajectoryGroup:
    """The group's scored trajectories, a greedy one included; a fault never enters a baseline."""
    return only(group, lambda trajectory: trajectory.status != "fault")


def only(group: TrajectoryGroup, keeps: Callable[[Trajectory], bool]) -> TrajectoryGroup:
    """The group without the trajectories that are not kept, and the preferences between the others."""
    kept = [i for i, t in enumerate(group.trajectories) if keeps(t)]
    place = {old: new for new, old in enumerate(kept)}
    preferences = tuple((place[a], place[b]) for a, b in group.preferences if a in place and b in place)
    return TrajectoryGroup(group.group_id, [group.trajectories[i] for i in kept], preferences)
