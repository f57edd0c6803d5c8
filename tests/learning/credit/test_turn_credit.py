"""Estimators of turns, of parts of the reward and of accepted episodes, by numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from agentrl.learning.credit.base import CREDITS
from agentrl.learning.credit.gae import TokenGAE, TurnGAE
from agentrl.learning.credit.gagpo import GAGPO, gagpo
from agentrl.learning.credit.gdpo import GDPO, gdpo
from agentrl.learning.credit.gigpo import gigpo
from agentrl.learning.credit.group_relative import grpo
from agentrl.learning.credit.hgpo import HGPO, hgpo
from agentrl.learning.credit.reinforce import REINFORCE, ReturnBatchNorm, returns_to_go
from agentrl.learning.credit.rejection import Rejection, accepted
from agentrl.messages import Action
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn

PLAIN = {"gamma": 0.5, "alpha": 1.0, "with_episode": False, "normalize_std": False}


def episode(rewards, keys=None, parts=None, ending=None):
    """An episode with a turn for each reward."""
    turns = [Turn((), Action(prompt_ids=(1,), token_ids=(2,)), reward) for reward in rewards]
    for turn, key in zip(turns, keys or (), strict=False):
        turn.state_key = key
    if parts:
        turns[-1].reward_components = parts
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, ending=ending or Ending())


def lists(found):
    return [[values.tolist() for values in group] for group in found.advantages]


def test_reinforce_is_the_return_from_each_turn_on():
    groups = [TrajectoryGroup("g", [episode([0.0, 1.0]), episode([1.0, 0.0])]), TrajectoryGroup("h", [episode([2.0])])]
    assert lists(REINFORCE(gamma=0.5)(groups, None)) == [[[0.5, 1.0], [1.0, 0.0]], [[2.0]]]
    centred = lists(REINFORCE(gamma=0.5, baseline="mean")(groups, None))
    assert np.concatenate([np.concatenate(g) for g in centred]).tolist() == pytest.approx([-0.4, 0.1, 0.1, -0.9, 1.1])


def test_return_batch_normalisation_standardises_the_turns_of_the_step():
    groups = [
        TrajectoryGroup("g", [episode([0.0, 1.0])]),
        TrajectoryGroup("h", [episode([3.0], ending=Ending("fault"))]),
    ]
    groups.append(TrajectoryGroup("i", [episode([3.0])]))
    ((first,), (fault,), (last,)) = lists(ReturnBatchNorm(gamma=0.5)(groups, None))
    returns = np.array([0.5, 1.0, 3.0])  # the fault enters no mean
    assert [*first, *last] == pytest.approx((returns - 1.5) / returns.std(ddof=1), rel=1e-5)
    assert fault == [0.0]
    assert returns_to_go([[1.0], [1.0]], gamma=1.0, baseline="batch_norm")[0].tolist() == [0.0]


def test_hgpo_by_hand():
    # Both episodes pass b; only the histories (a, b) of the first two are equal.
    rewards = [[0.0, 1.0], [0.0, 0.0], [0.0, 0.5]]
    keys = [["a", "b"], ["a", "b"], ["c", "b"]]
    # Returns to go: (.5, 1), (0, 0), (.25, .5). Of state a: mean .25. Of state b: mean .5. Of (a, b): mean .5.
    values = hgpo(rewards, keys, history=1, **PLAIN)
    assert values[0].tolist() == pytest.approx([0.25, (2 * 0.5 + 3 * 0.5) / 5])
    assert values[1].tolist() == pytest.approx([-0.25, (2 * -0.5 + 3 * -0.5) / 5])
    assert values[2].tolist() == [0.0, 0.0]  # alone in c; in b exactly at the mean, which counts as no comparison
    keys[2][1] = "b2"
    rewards[1][1] = 0.25
    by_state = hgpo(rewards, [["x", "b"], ["y", "b"], ["z", "q"]], history=1, **PLAIN)
    assert by_state[0].tolist() == pytest.approx([0.0, 0.375])  # a history that nobody shares thins nothing out


def test_hgpo_weighs_longer_histories_more_and_the_episode_least():
    # The second turns share their state, of three returns, and two of them their history.
    rewards, keys = [[0.0, 1.0], [0.0, 0.0], [0.0, 2.0]], [["a", "b"], ["a", "b"], ["c", "b"]]
    own = {**PLAIN, "history": 1, "with_episode": True}
    # Episode: returns 1, 0, 2, mean 1. State b: the same. History (a, b): mean .5.
    assert hgpo(rewards, keys, **own)[1][1] == pytest.approx((1 * -1.0 + 2 * -1.0 + 3 * -0.5) / 6)
    assert hgpo(rewards, keys, **{**own, "alpha": 2.0})[1][1] == pytest.approx((1 * -1.0 + 4 * -1.0 + 9 * -0.5) / 14)
    assert hgpo(rewards, keys, **{**own, "alpha": 0.0})[1][1] == pytest.approx((-1.0 - 1.0 - 0.5) / 3)


def test_hgpo_without_history_is_the_part_of_gigpo_among_states():
    rewards, keys = [[0.0, 0.0, 1.0], [0.0, 0.5], [0.25]], [["a", "b", "b"], ["a", "b"], ["a"]]
    values = hgpo(rewards, keys, history=0, **PLAIN)
    whole = gigpo(rewards, keys, gamma=0.5, step_weight=1.0, normalize_std=False)
    without = gigpo(rewards, keys, gamma=0.5, step_weight=0.0, normalize_std=False)
    for own, both, episodes in zip(values, whole, without, strict=True):
        assert own.tolist() == pytest.approx((both - episodes).tolist())


def test_hgpo_against_the_definition():
    """A brute-force walk over every pair of turns, on random episodes."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 6, int(rng.integers(1, 5)))
        rewards = [rng.normal(size=n).tolist() for n in lengths]
        keys = [[str(rng.integers(0, 2)) for _ in range(n)] for n in lengths]
        values = hgpo(rewards, keys, gamma=0.9, history=2, alpha=1.5, with_episode=False, normalize_std=True)
        to_go = [[sum(0.9**k * r for k, r in enumerate(own[t:])) for t in range(len(own))] for own in rewards]
        for i, t in ((i, t) for i, n in enumerate(lengths) for t in range(n)):
            total, weights = 0.0, 0.0
            for size in range(1, min(3, t + 1) + 1):
                history = keys[i][t + 1 - size : t + 1]
                same = [
                    to_go[j][u]
                    for j, n in enumerate(lengths)
                    for u in range(size - 1, n)
                    if keys[j][u + 1 - size : u + 1] == history
                ]
                value = (to_go[i][t] - np.mean(same)) / (np.std(same) + 1e-6) if len(same) > 1 else 0.0
                total, weights = total + (size + 1) ** 1.5 * value, weights + (size + 1) ** 1.5 * (value != 0)
            assert values[i][t] == pytest.approx(total / weights if weights else 0.0, abs=1e-9)


def test_gagpo_by_hand():
    # Discount 1: the state a is worth the mean of both episodes, b what the first earned from there.
    rewards, keys = [[0.0, 1.0], [0.0]], [["a", "b"], ["a"]]
    one_step = gagpo(rewards, keys, gamma=1.0, lam=0.0, normalize=False)
    assert [v.tolist() for v in one_step] == [[1.0 - 0.5, 0.0], [-0.5]]
    whole = gagpo(rewards, keys, gamma=1.0, lam=1.0, normalize=False)
    assert [v.tolist() for v in whole] == [[0.5, 0.0], [-0.5]]
    rewards, keys = [[0.0, 1.0], [0.0, 0.0]], [["a", "b"], ["a", "b"]]
    split = gagpo(rewards, keys, gamma=0.5, lam=0.5, normalize=False)
    # Values: a (.5 + 0) / 2, b (1 + 0) / 2. Differences: .5 * .5 - .25 = 0, and +-.5; 0.25 of the later one comes back.
    assert [v.tolist() for v in split] == [[0.125, 0.5], [-0.125, -0.5]]
    normalized = np.concatenate(gagpo(rewards, keys, gamma=0.5, lam=0.5, normalize=True))
    numbers = np.array([0.125, 0.5, -0.125, -0.5])
    assert normalized == pytest.approx(numbers / numbers.std(ddof=1), rel=1e-5)


def test_turns_without_a_key_begin_alike_and_are_states_of_their_own():
    """Without any key GAGPO at lam 1 is the return less its group's mean, at the first turn alone."""
    values = gagpo([[0.0, 1.0], [0.0, 0.0]], [[None, None], [None, None]], gamma=1.0, lam=1.0, normalize=False)
    assert [v.tolist() for v in values] == [[0.5, 0.0], [-0.5, 0.0]]
    values = hgpo([[0.0, 1.0], [0.0, 0.0]], [[None, None], [None, None]], history=1, **{**PLAIN, "gamma": 1.0})
    assert [v.tolist() for v in values] == [[0.5, 0.0], [-0.5, 0.0]]
    for method in (HGPO(), GAGPO()):
        with pytest.raises(ValueError, match="same number of turns"):
            (hgpo if isinstance(method, HGPO) else gagpo)([[1.0]], [["a", "b"]], **arguments_of(method))


def arguments_of(method):
    return dict(vars(method))


def test_gdpo_normalises_each_part_by_itself():
    """Two parts, of which the larger would drown the smaller in a plain sum."""
    parts = {"big": [[100.0, 0.0, 100.0, 0.0]], "small": [[1.0, 1.0, 0.0, 0.0]]}
    (values,) = gdpo(parts, {}, batch_norm=False)
    one = 0.5 / np.sqrt(1 / 3)
    assert values == pytest.approx([2 * one, 0.0, 0.0, -2 * one], abs=1e-5)
    (weighed,) = gdpo(parts, {"small": 3.0}, batch_norm=False)
    assert weighed == pytest.approx([4 * one, 2 * one, -2 * one, -4 * one], rel=1e-5)
    (normed,) = gdpo(parts, {}, batch_norm=True)
    assert normed == pytest.approx(values / values.std(ddof=1), rel=1e-5)


def test_gdpo_reads_the_parts_that_an_environment_names():
    group = TrajectoryGroup(
        "g",
        [
            episode([0.0, 2.0], parts={"right": 1.0, "form": 1.0}),
            episode([0.0], parts={"right": 0.0, "form": 1.0}),
            episode([9.0], parts={"right": 9.0}, ending=Ending("fault")),
        ],
    )
    found = lists(GDPO(batch_norm=False)([group], None))
    assert found == [[pytest.approx([np.sqrt(0.5)] * 2, rel=1e-5), pytest.approx([-np.sqrt(0.5)], rel=1e-5), [0.0]]]
    plain = TrajectoryGroup("h", [episode([1.0]), episode([0.0])])
    assert [v for (v,) in lists(GDPO(batch_norm=False)([plain], None))[0]] == grpo([[1.0, 0.0]])[0].tolist()
    assert GDPO().teaches(plain)
    assert not GDPO().teaches(TrajectoryGroup("i", [episode([1.0]), episode([1.0])]))


def test_rejection_accepts_what_is_good_enough():
    assert [v.tolist() for v in accepted([[1.0, 0.5, 2.0], [0.0]], 1.0, best_only=False)] == [[1, 0, 1], [0]]
    assert [v.tolist() for v in accepted([[2.0, 0.5, 2.0], [0.0]], 1.0, best_only=True)] == [[1, 0, 0], [0]]
    all_right = TrajectoryGroup("g", [episode([1.0]), episode([1.0])])
    assert Rejection().teaches(all_right)  # nothing to compare, and something to imitate
    assert not Rejection().teaches(TrajectoryGroup("h", [episode([0.5])]))


@pytest.mark.parametrize("method", [TurnGAE, TokenGAE])
def test_whitened_gae_has_mean_0_and_deviation_1_over_the_step(method):
    groups = [
        TrajectoryGroup("g", [episode([0.0, 1.0]), episode([0.0], ending=Ending("fault"))]),
        TrajectoryGroup("h", [episode([3.0])]),
    ]
    values = [[np.zeros(2), np.zeros(1)], [np.ones(1)]]
    found = method(lam=1.0, whiten=True)(groups, values)
    raw = np.array([1.0, 1.0, 2.0])
    expected = (raw - raw.mean()) / raw.std(ddof=1)
    assert np.concatenate([found.advantages[0][0], found.advantages[1][0]]) == pytest.approx(expected, rel=1e-5)
    assert found.advantages[0][1].tolist() == [0.0]
    assert found.returns[1][0].tolist() == [3.0]


@pytest.mark.parametrize("name", CREDITS.names)
def test_faults_and_greedy_episodes_enter_no_statistic_of_any_estimator(name):
    """The advantages of the others are those of a step without them."""
    credit = CREDITS.find(name)()
    greedy = episode([0.5])
    greedy.labels = Labels(mode="greedy")
    clean = [episode([0.0, 1.0], "ab"), episode([0.25], "a")]
    other = TrajectoryGroup("h", [episode([0.5], "a"), episode([0.0, 0.1], "ac")])
    if credit.needs_greedy:
        clean.append(greedy)
    mixed = TrajectoryGroup("g", [*clean, episode([7.0, 8.0], "ab", ending=Ending("fault"))])
    if not credit.needs_greedy:
        mixed.trajectories.append(greedy)
    groups = [TrajectoryGroup("g", clean), other], [mixed, other]
    (without, with_both) = (lists(credit(own, values_of(own))) for own in groups)
    assert with_both[0][: len(clean)] == without[0]
    assert with_both[1] == without[1]
    assert not any(itertools.chain.from_iterable(with_both[0][len(clean) :]))


def values_of(groups):
    return [[np.full(len(t.turns), 0.25) for t in group.trajectories] for group in groups]
