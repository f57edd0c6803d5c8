import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.learning.advantages import (
    GROUP_METHODS,
    dr_grpo,
    gae,
    gigpo,
    group_advantages,
    grpo,
    reinforce_plus_plus,
    remax,
    rloo,
)
from agentrl.messages import Action
from agentrl.trajectory import Task, Trajectory, TrajectoryGroup, Turn

finite = st.floats(-10, 10, width=32)
ragged = st.lists(st.lists(finite, min_size=1, max_size=6), min_size=1, max_size=5)


def group_of(rewards, statuses=None, turns=1):
    statuses = statuses or ["terminated"] * len(rewards)
    made = []
    for reward, status in zip(rewards, statuses, strict=True):
        steps = [Turn((), Action(text="x")) for _ in range(turns)]
        steps[-1].reward = reward
        made.append(Trajectory("e", Task("t"), 0, steps, status=status))
    return TrajectoryGroup("g", made)


def test_grpo_by_hand():
    (values,) = grpo([[1.0, 0.0, 0.0, 1.0]])
    assert values == pytest.approx(np.array([0.5, -0.5, -0.5, 0.5]) / np.sqrt(1 / 3), rel=1e-5)


def test_dr_grpo_by_hand():
    assert [v.tolist() for v in dr_grpo([[1.0, 0.0, 0.5], [2.0]])] == [[0.5, -0.5, 0.0], [0.0]]


def test_rloo_is_the_return_minus_the_mean_of_the_others():
    (values,) = rloo([[1.0, 0.0, 5.0]])
    assert values.tolist() == pytest.approx([1 - 2.5, 0 - 3.0, 5 - 0.5])


def test_reinforce_plus_plus_normalises_over_the_step():
    values = reinforce_plus_plus([[1.0, 1.0], [0.0]])
    std = np.std([1, 1, 0], ddof=1)
    assert np.concatenate(values) == pytest.approx(np.array([1 / 3, 1 / 3, -2 / 3]) / std, rel=1e-5)
    with_baseline = reinforce_plus_plus([[1.0, 1.0], [0.0]], group_baseline=True)
    assert np.concatenate(with_baseline).tolist() == [0, 0, 0]


def test_remax_subtracts_the_greedy_return():
    assert [v.tolist() for v in remax([[1.0, 0.0], [0.5]], [0.25, 1.0])] == [[0.75, -0.25], [-0.5]]
    with pytest.raises(ValueError, match="1 groups but 2"):
        remax([[1.0]], [1.0, 2.0])


@settings(max_examples=200, deadline=None)
@given(ragged)
def test_ragged_groups(returns):
    for method in (grpo, dr_grpo, rloo):
        for group, values in zip(returns, method(returns), strict=True):
            assert len(values) == len(group)
            assert np.isfinite(values).all()
            assert values.sum() == pytest.approx(0, abs=1e-6)
            if len(group) == 1 or len(set(group)) == 1:
                assert not values.any()


@pytest.mark.parametrize("method", GROUP_METHODS)
def test_faults_enter_no_statistic(method):
    with_fault = group_of([1.0, 99.0, 0.0], ["terminated", "fault", "truncated"])
    without = group_of([1.0, 0.0])
    other = group_of([0.25, 0.5])
    (faulty, _), (clean, _) = group_advantages([with_fault, other], method), group_advantages([without, other], method)
    assert faulty.tolist() == [clean[0], 0.0, clean[1]]


@pytest.mark.parametrize("method", GROUP_METHODS)
def test_the_number_of_turns_enters_no_statistic(method):
    short, long = group_of([1.0, 0.0, 0.5], turns=1), group_of([1.0, 0.0, 0.5], turns=9)
    assert group_advantages([short], method)[0].tolist() == group_advantages([long], method)[0].tolist()


def test_a_group_of_faults_and_an_unknown_method():
    faults = group_of([1.0, 0.0], ["fault", "fault"])
    assert group_advantages([faults], "grpo")[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="Did you mean 'grpo'"):
        group_advantages([faults], "gropo")


def direct_gae(rewards, values, gamma, lam, bootstrap):
    """The definition: a double sum over discounted temporal differences."""
    after = [*values[1:], bootstrap]
    deltas = [r + gamma * n - v for r, v, n in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1), finite)
def test_gae_is_the_sum_of_discounted_differences(turns, gamma, lam, bootstrap):
    rewards, values = [r for r, _ in turns], [v for _, v in turns]
    advantages, targets = gae(rewards, values, gamma=gamma, lam=lam, bootstrap=bootstrap)
    expected = direct_gae(rewards, values, gamma, lam, bootstrap)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-9)
    assert (targets - advantages).tolist() == pytest.approx(values, abs=1e-9)


def test_gae_limits_by_hand():
    rewards, values = [0.0, 0.0, 1.0], [0.5, 0.25, 0.75]
    assert gae(rewards, values, gamma=0.5, lam=1.0)[0].tolist() == [0.25 - 0.5, 0.5 - 0.25, 1 - 0.75]
    assert gae(rewards, values, gamma=1.0, lam=0.0)[0].tolist() == [-0.25, 0.5, 0.25]
    assert gae([], [])[0].tolist() == []
    with pytest.raises(ValueError, match="alike"):
        gae([1.0], [1.0, 2.0])


def test_gigpo_by_hand():
    # State "a" opens both episodes; "b" occurs in the first twice, "c" once; None never groups.
    rewards = [[0.0, 0.0, 1.0], [0.0, 0.0]]
    keys = [["a", "b", "b"], ["a", None]]
    values = gigpo(rewards, keys, gamma=0.5, step_weight=2.0, normalize_std=False)
    # Episode: +-0.5. Returns to go: 0.25, 0.5, 1.0 and 0, 0. State a: mean 0.125; state b: mean 0.75.
    assert values[0].tolist() == pytest.approx([0.5 + 2 * 0.125, 0.5 - 2 * 0.25, 0.5 + 2 * 0.25])
    assert values[1].tolist() == pytest.approx([-0.5 - 2 * 0.125, -0.5])


def test_gigpo_without_shared_states_is_grpo():
    values = gigpo([[0.0, 1.0], [0.5]], [["a", "b"], ["c"]])
    episode = grpo([[1.0, 0.5]])[0]
    assert [v.tolist() for v in values] == [[episode[0]] * 2, [episode[1]]]
    with pytest.raises(ValueError, match="number of turns"):
        gigpo([[1.0]], [["a", "b"]])
