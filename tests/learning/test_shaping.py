"""Rewards for training alone, worked out by hand; the episodes of the record stay as they are."""

from __future__ import annotations

import pytest

from agentrl.learning.credit.base import most_spread
from agentrl.learning.shaping.base import SHAPINGS
from agentrl.learning.shaping.components import Components
from agentrl.learning.shaping.overlong import Overlong, overlong_penalty
from agentrl.learning.shaping.truncated import Truncated
from agentrl.messages import Action
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn


def episode(*rewards, tokens=1, ending=None, parts=None):
    turns = [Turn((), Action(token_ids=(1,) * tokens), reward) for reward in rewards]
    if parts:
        turns[-1].reward_components = parts
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, ending=ending or Ending())


def shaped(shaping, *episodes):
    group = TrajectoryGroup("g", list(episodes), ((0, 0),))
    before = [[turn.reward for turn in t.turns] for t in episodes]
    (changed,) = shaping([group])
    assert [[turn.reward for turn in t.turns] for t in episodes] == before
    assert (changed.group_id, changed.preferences) == ("g", ((0, 0),))
    return [[turn.reward for turn in t.turns] for t in changed.trajectories]


def test_the_overlong_penalty_by_hand():
    lengths = (0, 768, 769, 896, 1024, 5000)
    found = [overlong_penalty(length, max_tokens=1024, buffer=256) for length in lengths]
    assert found == [0.0, 0.0, -1 / 256, -0.5, -1.0, -1.0]
    with pytest.raises(ValueError, match="buffer must be at most max_tokens"):
        Overlong(max_tokens=10, buffer=11)


def test_a_long_episode_pays_at_its_last_turn():
    """Two turns of 7 tokens are 14, four beyond the 10 where the penalty begins."""
    shaping = Overlong(max_tokens=18, buffer=8, penalty=0.5)
    assert shaped(shaping, episode(0.25, 1.0, tokens=7), episode(1.0, tokens=9)) == [[0.25, 0.75], [1.0]]


def test_parts_of_a_reward_are_weighed_anew():
    """Form and correctness of calls, as an environment names them; what has no parts keeps its reward."""
    parts = {"form": 1.0, "correct": -3.0, "else": 0.5}
    own = Components({"form": 2.0, "correct": 0.1})
    assert shaped(own, episode(0.3, 9.0, parts=parts)) == [[0.3, pytest.approx(2.0 - 0.3 + 0.5)]]
    assert shaped(Components({"form": 1.0}, others=0.0), episode(9.0, parts=parts)) == [[1.0]]


def test_an_episode_that_was_cut_off_keeps_a_share_and_is_charged():
    cut = episode(0.5, 0.5, ending=Ending("limit", "max_turns"))
    assert shaped(Truncated(added=-1.0), cut, episode(0.5)) == [[0.5, -0.5], [0.5]]
    assert shaped(Truncated(added=-1.0, keep=0.0), cut) == [[0.0, -1.0]]


def test_an_episode_without_turns_is_left_alone():
    empty = Trajectory(EnvRef("e"), Task("t"), 0, [])
    for name in SHAPINGS.names:
        assert shaped(SHAPINGS.find(name)(), empty) == [[]]


def test_the_groups_of_largest_spread_in_their_order():
    def group(name, *rewards):
        return TrajectoryGroup(name, [episode(reward) for reward in rewards])

    groups = [group("a", 1, 1), group("b", 0, 1), group("c", 0, 0.2), group("d", 0, 3)]
    groups[0].trajectories.append(episode(9.0, ending=Ending("fault", "x")))  # which enters no deviation
    for share, kept in ((1.0, "abcd"), (0.75, "bcd"), (0.5, "bd"), (0.01, "d")):
        assert "".join(group.group_id for group in most_spread(groups, share)) == kept
    assert most_spread([], 0.5) == []
