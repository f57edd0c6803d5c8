"""Feedback on groups made by hand: which episode is preferred over which."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from agentrl.messages import Action
from agentrl.rollout.feedback.base import FEEDBACKS, Feedback, PreferByScore
from agentrl.rollout.feedback.confident import PreferConfident
from agentrl.rollout.feedback.rewarded import PreferRewarded
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn

Preferences = tuple[tuple[int, int], ...]
FAULT = Ending("fault", "x")


def episode(reward: float = 0.0, logprobs: tuple[float, ...] | None = (), ending: Ending = Ending()) -> Trajectory:  # noqa: B008
    """Two turns; the first is as sure as can be, and the second has the reward and the log-probabilities."""
    sure = Turn((), Action("a", logprobs=(0.0, 0.0, 0.0)))
    return Trajectory(EnvRef("e"), Task("t"), 0, [sure, Turn((), Action("b", logprobs=logprobs), reward)], ending)


async def added(feedback: Feedback, *groups: list[Trajectory]) -> list[Preferences]:
    given = [TrajectoryGroup(str(number), group) for number, group in enumerate(groups)]
    found = await feedback(given)
    assert [g.group_id for g in found] == [g.group_id for g in given]
    assert [g.trajectories for g in found] == [g.trajectories for g in given]
    assert all(not g.preferences for g in given)
    return [g.preferences for g in found]


@pytest.mark.parametrize(
    ("scores", "margin", "expected"),
    [
        ([0.0, 1.0, 0.5], 0.0, ((1, 0),)),
        ([1.0, 1.0], 0.0, ()),
        ([1.0], 0.0, ()),
        ([], 0.0, ()),
        ([None, None], 0.0, ()),
        ([None, 2.0, 1.0], 0.0, ((1, 2),)),
        ([None, 2.0], 0.0, ()),
        ([0.0, 0.5], 0.5, ()),
        ([0.0, 0.75], 0.5, ((1, 0),)),
        ([-2.0, -3.0, -3.0], 0.0, ((0, 1),)),
    ],
)
async def test_the_highest_score_is_preferred_over_the_lowest(
    scores: list[float | None], margin: float, expected: Preferences
) -> None:
    @dataclass(frozen=True)
    class Listed(PreferByScore):
        """The score of an episode is the one at the place that its reward names."""

        def score(self, trajectory: Trajectory) -> float | None:
            return scores[int(trajectory.reward)]

    assert await added(Listed(margin), [episode(float(place)) for place in range(len(scores))]) == [expected]


async def test_the_highest_reward_is_preferred_over_the_lowest() -> None:
    rewards = [[0.0, 1.0, 0.5], [1.0, 1.0], [0.25]]
    groups = [[episode(reward) for reward in group] for group in rewards]
    assert await added(PreferRewarded(), *groups) == [((1, 0),), (), ()]
    assert await added(PreferRewarded(margin=1.0), *groups) == [(), (), ()]


async def test_a_fault_is_never_preferred_nor_rejected() -> None:
    assert await added(PreferRewarded(), [episode(9.0, ending=FAULT), episode(1.0), episode(0.5)]) == [((1, 2),)]
    assert await added(PreferRewarded(), [episode(9.0, ending=FAULT), episode(1.0)]) == [()]
    sure, unsure, fault = episode(0.0, (-0.1,)), episode(0.0, (-0.2,)), episode(0.0, (-9.0,), FAULT)
    assert await added(PreferConfident(), [fault, unsure, sure]) == [((2, 1),)]


async def test_a_greedy_episode_is_never_preferred_nor_rejected() -> None:
    best, worst = episode(9.0, (-0.01,)), episode(-9.0, (-9.0,))
    best.labels = worst.labels = Labels(mode="greedy")
    group = [best, episode(1.0, (-0.1,)), episode(0.5, (-0.2,)), worst]
    assert await added(PreferRewarded(), group) == [((1, 2),)]
    assert await added(PreferConfident(), group) == [((1, 2),)]


async def test_confidence_is_the_mean_over_the_tokens_of_the_last_turn() -> None:
    long, short = episode(1.0, (-0.1, -0.1, -0.1, -0.1)), episode(0.0, (-0.3,))  # sums -0.4 and -0.3
    assert await added(PreferConfident(), [short, long]) == [((1, 0),)]
    assert await added(PreferConfident(margin=0.25), [short, long]) == [()]
    assert await added(PreferConfident(), [long, long]) == [()]


@pytest.mark.parametrize("logprobs", [None, ()])
async def test_an_episode_without_known_confidence_is_left_out(logprobs: tuple[float, ...] | None) -> None:
    unknown = episode(0.0, logprobs)
    assert await added(PreferConfident(), [unknown, episode(0.0, (-0.1,)), episode(0.0, (-0.2,))]) == [((1, 2),)]
    nothing = Trajectory(EnvRef("e"), Task("t"), 0, [], Ending("answer"), labels=Labels())
    assert await added(PreferConfident(), [nothing, unknown]) == [()]


def test_both_are_found_by_name() -> None:
    assert {name: FEEDBACKS.find(name) for name in ("prefer_rewarded", "prefer_confident")} == {
        "prefer_rewarded": PreferRewarded,
        "prefer_confident": PreferConfident,
    }


async def test_several_pairs_go_inwards_and_share_no_episode() -> None:
    group = [episode(reward) for reward in (0.5, 1.0, 0.0, 0.75, 0.25)]
    assert await added(PreferRewarded(pairs=1), group) == [((1, 2),)]
    assert await added(PreferRewarded(pairs=9), group) == [((1, 2), (3, 4))]  # the middle one has no partner
    assert await added(PreferRewarded(margin=0.5, pairs=9), group) == [((1, 2),)]
    assert await added(PreferRewarded(pairs=9), group[:4]) == [((1, 2), (3, 0))]


async def test_continuations_are_compared_with_those_of_the_same_turn() -> None:
    def of(reward: float, fork: tuple[str, int] | None = None) -> Trajectory:
        return replace(episode(reward), fork=fork)

    group = [of(0.0), of(9.0, ("a", 1)), of(1.0), of(5.0, ("a", 1)), of(0.5, ("a", 2)), of(7.0, ("a", 1))]
    assert await added(PreferRewarded(), group) == [((2, 0), (1, 3))]
