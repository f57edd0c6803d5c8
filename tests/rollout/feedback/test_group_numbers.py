"""Rewards that compare the numbers of a group: by hand, as gradients, and what they leave alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from agentrl.messages import Action
from agentrl.rollout.feedback.base import FEEDBACKS
from agentrl.rollout.feedback.group_numbers import (
    RewardCRPS,
    RewardLeaveOneOut,
    crps_rewards,
    leave_one_out_rewards,
)
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn

VALUES = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
TARGET = 1.5


def test_rewards_by_hand() -> None:
    assert crps_rewards(np.array([1.0, 3.0]), 2.0).tolist() == [1.0, 1.0]
    assert crps_rewards(np.array([0.0, 1.0, 5.0]), 1.0) == pytest.approx([2.0, 2.5, 0.5])
    assert crps_rewards(np.array([5.0]), 1.0).tolist() == [-4.0]
    # Means 3, 2.5 and 0.5 without one, 2 of all; the target is 1.
    assert leave_one_out_rewards(np.array([0.0, 1.0, 5.0]), 1.0, "mean") == pytest.approx([3.0, 1.25, -0.75])
    # Medians 3, 2.5 and 0.5 without one, 1 of all.
    assert leave_one_out_rewards(np.array([0.0, 1.0, 5.0]), 1.0, "median") == pytest.approx([4.0, 2.25, 0.25])
    assert leave_one_out_rewards(np.array([5.0]), 1.0, "mean").tolist() == [0.0]


def test_the_policy_gradient_of_the_crps_rewards_is_that_of_minus_the_crps() -> None:
    """Over every group of three samples, exactly."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits, 0)
    distances = (VALUES[:, None] - VALUES).abs()
    crps = (p * (VALUES - TARGET).abs()).sum() - (p[:, None] * p * distances).sum() / 2
    (wanted,) = torch.autograd.grad(-crps, logits)
    surrogate = torch.zeros((), dtype=torch.float64)
    for group in product(range(3), repeat=3):
        chance = torch.softmax(logits, 0).detach()[list(group)].prod()
        rewards = torch.from_numpy(crps_rewards(VALUES[list(group)].numpy(), TARGET))
        surrogate = surrogate + chance * (torch.log_softmax(logits, 0)[list(group)] * rewards).mean()
    (found,) = torch.autograd.grad(surrogate, logits)
    assert found == pytest.approx(wanted, abs=1e-12)
    assert found.abs().max() > 0.01


def episode(value: float | None, reward: float = 0.5, **more: object) -> Trajectory:
    info = {} if value is None else {"target": 2.0, "prediction": value, "scale": 2.0, "success": True}
    turns = [Turn((), Action("a"), 0.25), Turn((), Action("b"), reward, {"closeness": reward})]
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, info=info, **more)  # type: ignore[arg-type]


async def test_rewards_are_in_standard_deviations_and_a_part_of_their_own() -> None:
    group = TrajectoryGroup("g", [episode(2.0), episode(6.0)])
    (found,) = await RewardCRPS(weight=10.0)([group])
    assert [[turn.reward for turn in t.turns] for t in found.trajectories] == [[0.0, 20.0], [0.0, 0.0]]
    assert found.trajectories[0].turns[1].reward_components == {"closeness": 0.5, "crps": 2.0}
    (kept,) = await RewardLeaveOneOut(keep=1.0)([group])
    # The aggregate of both is 1 scale away, without the first 2, without the second 0.
    assert [t.reward for t in kept.trajectories] == [0.75 + 3.0, 0.75 - 1.0]
    assert all(t.success for t in kept.trajectories)
    assert [t.reward for t in group.trajectories] == [0.75, 0.75]


async def test_who_makes_no_prediction_that_counts_is_left_alone() -> None:
    others = [
        episode(None),
        episode(9.0, ending=Ending("fault", "x")),
        episode(9.0, labels=Labels(mode="greedy")),
    ]
    (found,) = await RewardCRPS()([TrajectoryGroup("g", [*others, episode(2.0), episode(4.0)])])
    assert [t.reward for t in found.trajectories] == [0.75, 0.75, 0.75, 1.0, 0.0]
    (alone,) = await RewardCRPS()([TrajectoryGroup("g", others)])
    assert alone.trajectories == others


@pytest.mark.parametrize("feedback", [RewardCRPS(), RewardLeaveOneOut(), RewardLeaveOneOut(aggregate="median")])
@pytest.mark.parametrize("said", ["much", float("nan"), float("inf"), -float("inf"), 1e308, -1e308])
async def test_one_answer_that_is_no_number_spoils_no_group_and_earns_least(feedback, said) -> None:
    """The target is 2, a unit is 2: the others are 0, 1 and 2 units away."""
    group = TrajectoryGroup("g", [episode(2.0), episode(4.0), episode(6.0), episode(said)])
    (found,) = await feedback([group])
    rewards = [t.reward for t in found.trajectories]
    assert np.isfinite(rewards).all()
    if feedback != RewardLeaveOneOut(aggregate="median"):  # to a median it matters on which side an answer is
        assert rewards[3] == min(rewards)


async def test_a_group_without_any_number_has_rewards() -> None:
    (found,) = await RewardCRPS()([TrajectoryGroup("g", [episode("a"), episode("b")])])
    assert [t.reward for t in found.trajectories] == [-1.0, -1.0]


def test_they_are_found_by_name() -> None:
    assert FEEDBACKS.find("reward_crps") is RewardCRPS
    assert FEEDBACKS.find("reward_leave_one_out") is RewardLeaveOneOut
