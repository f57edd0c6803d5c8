"""Statistics over a step that never mix environments, by numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.learning.credit.base import Credit
from agentrl.learning.credit.by_environment import by_environment
from agentrl.learning.credit.gae import TurnGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.credit.reinforce import REINFORCE
from agentrl.messages import Action
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn


def group(name: str, rewards: list[float], **kwargs: int) -> TrajectoryGroup:
    turns = [[Turn((), Action(prompt_ids=(1,), token_ids=(2,)), reward)] for reward in rewards]
    return TrajectoryGroup(name, [Trajectory(EnvRef(name, kwargs), Task("t"), 0, own, Ending()) for own in turns])


def numbers(credit: Credit, *groups: TrajectoryGroup) -> list[list[float]]:
    found = by_environment(credit, groups, None)
    return [[float(values[0]) for values in of_group] for of_group in found.advantages]


def test_a_mean_of_the_step_is_that_of_the_environment() -> None:
    easy, hard, more = group("easy", [1.0, 0.8]), group("hard", [0.0, 0.4]), group("easy", [0.6, 0.8])
    found = numbers(REINFORCE(baseline="mean"), easy, hard, more)
    assert np.allclose(found, [[0.2, 0.0], [-0.2, 0.2], [-0.2, 0.0]])


def test_arguments_make_another_environment_and_limits_do_not() -> None:
    found = numbers(REINFORCE(baseline="mean"), group("e", [1.0], level=1), group("e", [0.0], level=2))
    assert found == [[0.0], [0.0]]


def test_estimators_that_compare_within_groups_are_unchanged() -> None:
    groups = [group("a", [1.0, 0.0]), group("b", [3.0, 1.0, 2.0]), group("a", [0.0, 0.0])]
    alone = [[float(values[0]) for values in of_group] for of_group in GRPO()(groups, None).advantages]
    assert numbers(GRPO(), *groups) == alone


def test_values_and_returns_stay_with_their_groups() -> None:
    groups = [group("a", [1.0]), group("b", [5.0]), group("a", [2.0])]
    values = [[np.array([0.5])], [np.array([1.0])], [np.array([0.0])]]
    found = by_environment(TurnGAE(), groups, values)
    assert [float(of_group[0][0]) for of_group in found.advantages] == pytest.approx([0.5, 4.0, 2.0])
    assert found.returns is not None
    assert [float(of_group[0][0]) for of_group in found.returns] == pytest.approx([1.0, 5.0, 2.0])
