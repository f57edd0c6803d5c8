"""Numbers of episodes land on the tokens that they belong to, and come back from there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.learning.credit.base import Advantages
from agentrl.learning.credit.gae import TokenGAE, TurnGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.episode_columns import pairs, per_trajectory, with_advantages, with_turn_rewards
from agentrl.learning.rows import build_rows
from agentrl.trajectory import TrajectoryGroup
from tests.learning.test_rows import trajectory_of, turn_lists

# The second turn forks a row, the third extends the first row again.
TURNS = [([1], [2, 3], [-1.0, -1.0]), ([5], [6], [-1.0]), ([1, 2, 3, 4], [7], [-1.0])]


def advantages(rows):
    return [row.column("advantages").tolist() for row in rows]


def test_a_number_for_each_turn():
    group = TrajectoryGroup("g", [trajectory_of(TURNS)])
    found = Advantages([[np.array([0.5, -1.0, 2.0])]])
    assert advantages(with_advantages(build_rows([group]), [group], found, GRPO())) == [
        [0, 0.5, 0.5, 0, 2.0],
        [0, -1.0],
    ]


def test_a_number_for_each_token_and_the_returns():
    group = TrajectoryGroup("g", [trajectory_of(TURNS)])
    found = Advantages([[np.array([1.0, 2.0, 3.0, 4.0])]], [[np.array([5.0, 6.0, 7.0, 8.0])]])
    rows = with_advantages(build_rows([group]), [group], found, TokenGAE())
    assert advantages(rows) == [[0, 1.0, 2.0, 0, 4.0], [0, 3.0]]
    assert [row.column("returns").tolist() for row in rows] == [[0, 5.0, 6.0, 0, 8.0], [0, 7.0]]


@settings(max_examples=300, deadline=None)
@given(st.lists(turn_lists, min_size=1, max_size=3), st.sampled_from([TurnGAE(), TokenGAE()]))
def test_a_column_comes_back_as_it_went(episodes, credit):
    """What is spread over the tokens of a step and read again is the same, whatever rows the histories fork into."""
    groups = [TrajectoryGroup("g", [trajectory_of(turns) for turns in episodes])]
    sizes = [len(t) if credit.level == "turn" else sum(len(s) for _, s, _ in t) for t in episodes]
    numbers = iter(range(1, 1 + sum(sizes)))
    given_numbers = [[np.array([next(numbers) for _ in range(size)], float) for size in sizes]]
    rows = with_advantages(build_rows(groups), groups, Advantages(given_numbers), credit)
    back = per_trajectory(rows, groups, "advantages", credit)
    for turns, went, came in zip(episodes, given_numbers[0], back[0], strict=True):
        kept = [bool(sampled) for _, sampled, _ in turns] if credit.level == "turn" else [True] * len(went)
        assert came.tolist() == [value if keep else 0.0 for value, keep in zip(went, kept, strict=True)]


def test_numbers_that_do_not_match_are_refused():
    group = TrajectoryGroup("g", [trajectory_of([([1], [2], [-1.0]), ([1, 2, 3], [4], [-1.0])])])
    rows = build_rows([group])

    def give(*numbers):
        with_advantages(rows, [group], Advantages([[np.array(n) for n in numbers]]), GRPO())

    with pytest.raises(ValueError, match=r"2 turns but advantages of shape \(1,\): one per turn"):
        give([1.0])
    for number in (float("nan"), float("inf"), 1e200):
        with pytest.raises(ValueError, match=r"trajectory 0 of group 'g' .* not finite in float32"):
            give([number, 0.0])
    with pytest.raises(ValueError, match="1 trajectories but 2 advantages"):
        give([1.0, 1.0], [2.0, 2.0])
    with pytest.raises(ValueError, match="1 groups but advantages of 0"):
        with_advantages(rows, [group], Advantages([]), GRPO())


def test_rewards_of_turns_are_changed_in_a_copy():
    """What the tokens of a turn add up to, whatever rows they are in; the groups of the store stay as they are."""
    group = TrajectoryGroup("g", [trajectory_of(TURNS, 1.0), trajectory_of([([1], [9], [-1.0])])])
    rows = build_rows([group])
    changed = with_turn_rewards(rows, [group], lambda row: row.ids.astype(float))
    assert [[turn.reward for turn in t.turns] for t in changed[0].trajectories] == [[2 + 3, 6, 1 + 7], [9]]
    assert [t.reward for t in group.trajectories] == [1.0, 0.0]


def test_a_pair_is_one_unit_of_one_weight_whatever_its_rows():
    """A preferred episode of two rows against one of one row, and a fault that takes its pair with it."""
    better, worse = trajectory_of(TURNS, 2.0), trajectory_of([([1], [9, 9, 9], [-1.0] * 3)], 0.5)
    fault = trajectory_of([([1], [8], [-1.0])], status="fault")
    groups = [
        TrajectoryGroup("a", [worse, better], ((1, 0),)),
        TrajectoryGroup("b", [fault, worse], ((1, 0),)),
        TrajectoryGroup("c", [better, worse], ((0, 1),)),
    ]
    rows = pairs(build_rows(groups), groups)
    assert [(row.unit, row.trajectory, float(row.column("sign")[row.mask][0])) for row in rows] == [
        (0, 1, 1.0),
        (0, 1, 1.0),
        (0, 0, -1.0),
        (1, 4, 1.0),
        (1, 4, 1.0),
        (1, 5, -1.0),
    ]
    assert all(set(row.column("coefficients")[row.mask].tolist()) == {0.5} for row in rows)
    # The last token of the better episode is in its first row, to which its third turn returns.
    assert [row.column("last").tolist() for row in rows[:3]] == [[0, 0, 0, 0, 1.0], [0, 0], [0, 0, 0, 1.0]]
    assert set(rows[0].column("reward_gap")[rows[0].mask].tolist()) == {1.5}
    assert all(not row.column("sign")[~row.mask].any() for row in rows)
