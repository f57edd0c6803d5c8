"""Forked credit against brute force: every outcome of a small decision process is enumerated with its probability."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from agentrl.learning.credit.forked import Forked, forked
from agentrl.learning.credit.group_relative import rloo
from agentrl.messages import Action
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn

TURNS = 3
HISTORIES = [h for length in range(TURNS) for h in itertools.product((0, 1), repeat=length)]
RNG = np.random.default_rng(0)
LOGITS = {h: float(RNG.normal()) for h in HISTORIES}
REWARDS = {(*h, a): float(RNG.normal()) for h in HISTORIES for a in (0, 1)}
TAILS = {begin: list(itertools.product((0, 1), repeat=TURNS - begin)) for begin in range(TURNS)}


def probability(history, action, logits=LOGITS):
    """Of an action of 0 or 1, which is all that a turn of this process is."""
    one = 1 / (1 + np.exp(-logits[history]))
    return one if action else 1 - one


def chance(path, begin, logits=LOGITS):
    """Of the actions of a path from a turn on."""
    return float(np.prod([probability(path[:t], path[t], logits) for t in range(begin, TURNS)]))


def earned(path):
    return [REWARDS[path[: t + 1]] for t in range(TURNS)]


def value(history, logits=LOGITS):
    begin = len(history)
    if begin == TURNS:
        return 0.0
    return sum(chance(history + tail, begin, logits) * sum(earned(history + tail)[begin:]) for tail in TAILS[begin])


def advantage(history, action):
    return REWARDS[(*history, action)] + value((*history, action)) - value(history)


def outcomes(forks, others=1):
    """Every outcome of one episode, `others` further ones, and one continuation of the first from each of some turns.

    Yields: its probability, the paths, and what each continues.
    """
    for path in TAILS[0]:
        for rest in itertools.product(TAILS[0], repeat=others):
            for tails in itertools.product(*(TAILS[t] for t in forks)):
                played = [path[:t] + tail for t, tail in zip(forks, tails, strict=True)]
                odds = chance(path, 0) * np.prod([chance(o, 0) for o in rest])
                odds *= np.prod([chance(c, t) for c, t in zip(played, forks, strict=True)])
                yield odds, [path, *rest, *played], [None] * (1 + others) + [(0, t) for t in forks]


def gradient(path, begin, advantages):
    """Of the sum of advantage times log-probability, by history."""
    found = dict.fromkeys(HISTORIES, 0.0)
    for t in range(begin, TURNS):
        found[path[:t]] += advantages[t] * (path[t] - probability(path[:t], 1))
    return found


def true_gradient(objective):
    """By central differences of a function of the logits."""
    found = {}
    for history in HISTORIES:
        up, down = ({**LOGITS, history: LOGITS[history] + side * 1e-5} for side in (1, -1))
        found[history] = (objective(up) - objective(down)) / 2e-5
    return found


def test_a_fork_at_every_turn_gives_the_true_advantage_of_each_action():
    sums, odds_of = defaultdict(float), defaultdict(float)
    for odds, paths, origins in outcomes(forks=(1, 2)):
        found = forked([earned(path) for path in paths], origins)[0]
        for t in range(TURNS):
            sums[paths[0][: t + 1]] += odds * found[t]
            odds_of[paths[0][: t + 1]] += odds
    for taken, total in sums.items():
        assert total / odds_of[taken] == pytest.approx(advantage(taken[:-1], taken[-1]), abs=1e-12)


@pytest.mark.parametrize("forks", [(), (1,), (2,), (1, 2)])
def test_the_gradient_of_the_episodes_is_that_of_the_expected_return(forks):
    total = dict.fromkeys(HISTORIES, 0.0)
    for odds, paths, origins in outcomes(forks):
        for history, slope in gradient(paths[0], 0, forked([earned(p) for p in paths], origins)[0]).items():
            total[history] += odds * slope
    expected = true_gradient(lambda logits: value((), logits))
    assert list(total.values()) == pytest.approx([expected[h] for h in HISTORIES], abs=1e-8)


def test_the_gradient_of_continuations_is_that_of_the_values_where_they_begin():
    total = dict.fromkeys(HISTORIES, 0.0)
    for odds, paths, origins in outcomes((1,), others=0):
        values = forked([earned(path) for path in paths], origins)
        assert values[1][0] == 0.0  # the shared turn is the parent's
        for history, slope in gradient(paths[1], 1, values[1]).items():
            total[history] += odds * slope
    begins = {(a,): probability((), a) for a in (0, 1)}
    expected = true_gradient(lambda logits: sum(odds * value(h, logits) for h, odds in begins.items()))
    assert list(total.values()) == pytest.approx([expected[h] if h else 0.0 for h in HISTORIES], abs=1e-8)


def test_by_hand():
    # Continuations of the first episode from its turn 1 earn 4 and 6 there, so that its state is worth 5.
    rewards = [[1.0, 2.0, 3.0], [0.0, 2.0], [1.0, 4.0], [1.0, 0.0, 6.0]]
    values = forked(rewards, [None, None, (0, 1), (0, 1)])
    assert values[0].tolist() == [1.0 + 5.0 - 2.0, 5.0 - 5.0, 5.0 - 5.0]
    assert values[1].tolist() == [2.0 - 6.0, 2.0 - 6.0]
    assert values[2].tolist() == [0.0, 4.0 - (5.0 + 6.0) / 2]
    assert values[3].tolist() == [0.0, 6.0 - (5.0 + 4.0) / 2, 6.0 - (5.0 + 4.0) / 2]


def test_without_forks_it_is_rloo():
    rewards = [[0.0, 1.0], [2.0], [0.5, 0.0, 0.0]]
    expected = rloo([[1.0, 2.0, 0.5]])[0]
    for own, whole in zip(forked(rewards, [None] * 3), expected, strict=True):
        assert own == pytest.approx(np.full(len(own), whole))


def test_a_lone_episode_is_judged_from_its_first_fork_on():
    values = forked([[1.0, 1.0], [1.0, 3.0]], [None, (0, 1)])
    assert values[0].tolist() == [0.0, 1.0 - 3.0]
    assert values[1].tolist() == [0.0, 3.0 - 1.0]


@pytest.mark.parametrize(
    ("origins", "said"), [([None, (1, 1)], "not one that was played"), ([None, (0, 2)], "continues turn 2")]
)
def test_an_impossible_fork_is_refused(origins, said):
    with pytest.raises(ValueError, match=said):
        forked([[1.0, 2.0], [1.0, 2.0]], origins)


def episode(name, rewards, fork=None, **changes):
    turns = [Turn((), Action(prompt_ids=(1,), token_ids=(2,)), reward) for reward in rewards]
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, episode_id=name, fork=fork, **changes)


def test_faults_and_greedy_episodes_change_nothing():
    members = [
        episode("greedy", [9.0], labels=Labels(mode="greedy")),
        episode("a", [1.0, 2.0, 3.0]),
        episode("fault", [9.0, 9.0], ending=Ending("fault")),
        episode("b", [0.0, 2.0]),
        episode("a1", [1.0, 4.0], ("a", 1)),
        episode("a1-fault", [1.0, 4.0], ("a", 1), ending=Ending("fault")),
        episode("orphan", [9.0, 4.0], ("fault", 1)),
        episode("a2", [1.0, 0.0, 6.0], ("a", 1)),
    ]
    (found,) = Forked()([TrajectoryGroup("g", members)], None).advantages
    by_hand = forked([[1.0, 2.0, 3.0], [0.0, 2.0], [1.0, 4.0], [1.0, 0.0, 6.0]], [None, None, (0, 1), (0, 1)])
    assert [found[i].tolist() for i in (1, 3, 4, 7)] == [values.tolist() for values in by_hand]
    assert [found[i].tolist() for i in (0, 2, 5, 6)] == [[0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_group_teaches_where_a_continuation_differs():
    alike = TrajectoryGroup("g", [episode("a", [0.0, 1.0]), episode("b", [0.0, 1.0])])
    assert not Forked().teaches(alike)
    assert Forked().teaches(TrajectoryGroup("g", [*alike.trajectories, episode("c", [0.0, 0.0], ("a", 1))]))
