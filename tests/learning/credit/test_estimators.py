import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import ConfigError
from agentrl.learning.credit.base import CREDITS, differs, without_faults
from agentrl.learning.credit.gae import TokenGAE, TurnGAE, gae
from agentrl.learning.credit.gigpo import GiGPO, gigpo
from agentrl.learning.credit.group_relative import dr_grpo, grpo, reinforce_plus_plus, rloo
from agentrl.learning.credit.remax import ReMax, remax
from agentrl.messages import Action
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn
from tests.endings import ENDINGS

finite = st.floats(-10, 10, width=32)
ragged = st.lists(st.lists(finite, min_size=1, max_size=6), min_size=1, max_size=5)


def group_of(rewards, statuses=None, turns=1):
    statuses = statuses or ["terminated"] * len(rewards)
    made = []
    for reward, status in zip(rewards, statuses, strict=True):
        steps = [Turn((), Action(text="x")) for _ in range(turns)]
        steps[-1].reward = reward
        made.append(Trajectory(EnvRef("e"), Task("t"), 0, steps, ending=ENDINGS[status]))
    return TrajectoryGroup("g", made)


def estimated(groups, method):
    """Advantages of a method, as lists: group, trajectory, turn."""
    return [[values.tolist() for values in group] for group in CREDITS.find(method)()(groups, None).advantages]


def test_grpo_by_hand():
    (values,) = grpo([[1.0, 0.0, 0.0, 1.0]])
    assert values == pytest.approx(np.array([0.5, -0.5, -0.5, 0.5]) / np.sqrt(1 / 3), rel=1e-5)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200, 1e307])
def test_rewards_of_any_finite_size_give_finite_advantages(size):
    tiny = size < 1e-6  # below the epsilon of the deviation
    for method in (grpo, reinforce_plus_plus):
        (values,) = method([[size, -size, 0.0]])
        assert values.tolist() == pytest.approx([0.0] * 3 if tiny else [1.0, -1.0, 0.0], abs=1e-5)
    (values,) = dr_grpo([[size, -size, 0.0]])
    assert values.tolist() == [size, -size, 0.0]


def test_returns_that_are_not_finite_are_refused():
    for method in (grpo, dr_grpo, rloo, reinforce_plus_plus):
        for number in (np.inf, -np.inf, np.nan):
            with pytest.raises(ValueError, match="returns must be finite"):
                method([[number, number, 0.0]])
            with pytest.raises(ValueError, match="returns must be finite"):
                method([[number, number]])  # equal, and still refused


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


def with_greedy(rewards, greedy, statuses=None, greedy_status="terminated", turns=1):
    """A group whose last episode was played greedily."""
    group = group_of([*rewards, greedy], [*(statuses or ["terminated"] * len(rewards)), greedy_status], turns)
    group.trajectories[-1].labels = Labels(mode="greedy")
    return group


def test_the_greedy_episode_of_a_group_is_the_baseline_of_remax_and_gets_0():
    groups = [with_greedy([1.0, 0.0], 0.25), with_greedy([0.5], 1.0, turns=2)]
    assert estimated(groups, "remax") == [[[0.75], [-0.25], [0.0]], [[-0.5, -0.5], [0.0, 0.0]]]
    equal = with_greedy([0.0, 0.0], 1.0)  # all the same, and all worse than greedy
    assert estimated([equal], "remax") == [[[-1.0], [-1.0], [0.0]]]


def test_remax_leaves_faults_out():
    faulty = with_greedy([1.0, 99.0, 0.0], 0.25, ["terminated", "fault", "truncated"])
    assert estimated([faulty], "remax") == [[[0.75], [0.0], [-0.25], [0.0]]]
    assert estimated([without_faults(faulty)], "remax") == [[[0.75], [-0.25], [0.0]]]


def test_without_a_greedy_return_remax_teaches_nothing():
    for group in (with_greedy([1.0, 0.0], 99.0, greedy_status="fault"), group_of([1.0, 0.0])):
        assert [value for (value,) in estimated([group], "remax")[0]] == [0.0] * len(group.trajectories)
    (value,) = estimated([without_faults(with_greedy([1.0], 99.0, greedy_status="fault"))], "remax")[0]
    assert value == [0.0]


def test_only_remax_needs_a_greedy_episode():
    assert [name for name in CREDITS.names if CREDITS.find(name)().needs_greedy] == ["remax"]
    assert not ReMax().compares


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_plus_plus", "gigpo"])
def test_a_greedy_episode_enters_no_statistic(method):
    others = group_of([0.25, 0.5])
    with_one, without = with_greedy([1.0, 0.0], 99.0), group_of([1.0, 0.0])
    assert estimated([with_one, others], method)[0] == [*estimated([without, others], method)[0], [0.0]]


def test_a_greedy_episode_makes_no_difference_within_its_group():
    assert not differs(with_greedy([1.0, 1.0], 0.0))
    assert differs(with_greedy([1.0, 0.0], 0.0))


def test_the_estimator_says_what_teaches():
    """Equal rewards teach nothing to a comparison of returns, and something to other estimators."""
    equal, unequal, faults = group_of([1.0, 1.0]), group_of([1.0, 0.0]), group_of([1.0, 0.0], ["fault", "fault"])

    def taught(credit):
        return [credit.teaches(group) for group in (equal, unequal, faults)]

    for name in ("grpo", "dr_grpo", "rloo", "gigpo"):
        assert taught(CREDITS.find(name)()) == [False, True, False]
    for name in ("reinforce_plus_plus", "turn_gae", "token_gae"):
        assert taught(CREDITS.find(name)()) == [True, True, False]
    assert ReMax().teaches(with_greedy([1.0, 1.0], 0.0))
    assert not ReMax().teaches(with_greedy([1.0, 1.0], 1.0))
    shorter = group_of([1.0, 1.0])
    shorter.trajectories[0].turns.insert(0, Turn((), Action(), state_key="a"))
    shorter.trajectories[1].turns[0].state_key = "a"
    assert GiGPO(gamma=0.5).teaches(shorter)  # the same reward, sooner


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


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_plus_plus"])
def test_faults_enter_no_statistic(method):
    with_fault = group_of([1.0, 99.0, 0.0], ["terminated", "fault", "truncated"])
    without = group_of([1.0, 0.0])
    other = group_of([0.25, 0.5])
    faulty, clean = estimated([with_fault, other], method)[0], estimated([without, other], method)[0]
    assert faulty == [clean[0], [0.0], clean[1]]


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_plus_plus"])
def test_the_number_of_turns_enters_no_statistic(method):
    short, long = group_of([1.0, 0.0, 0.5], turns=1), group_of([1.0, 0.0, 0.5], turns=9)
    assert [a * 9 for a in estimated([short], method)[0]] == estimated([long], method)[0]


@pytest.mark.parametrize("method", CREDITS.names)
def test_a_group_of_faults_gets_0(method):
    faults = group_of([1.0, 0.0], ["fault", "fault"])
    values = [[np.ones(1), np.ones(1)]]
    assert [v.tolist() for v in CREDITS.find(method)()([faults], values).advantages[0]] == [[0.0], [0.0]]


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'grpo'"):
        CREDITS.find("gropo")


def test_gae_of_a_step_by_turns_and_by_tokens():
    """Two turns of 2 and 1 tokens, rewards 0 and 1; the fault beside them gets 0."""
    turns = [Turn((), Action(prompt_ids=(1,), token_ids=ids), reward) for ids, reward in (((2, 3), 0.0), ((4,), 1.0))]
    episode = Trajectory(EnvRef("e"), Task("t"), 0, turns)
    fault = Trajectory(EnvRef("e"), Task("t"), 0, turns, ending=Ending("fault", "x"))
    groups = [TrajectoryGroup("g", [episode, fault])]
    by_turn = TurnGAE(gamma=0.5, lam=1.0)(groups, [[np.array([0.25, 0.5]), np.zeros(2)]])
    assert [a.tolist() for a in by_turn.advantages[0]] == [[0.5 - 0.25, 1.0 - 0.5], [0.0, 0.0]]
    assert by_turn.returns[0][0].tolist() == [0.5, 1.0]
    by_token = TokenGAE(gamma=1.0, lam=0.0)(groups, [[np.array([0.25, 0.5, 0.125]), np.zeros(3)]])
    assert by_token.advantages[0][0].tolist() == [0.25, -0.375, 0.875]
    with pytest.raises(ValueError, match="fill the column 'values' first"):
        TurnGAE()(groups, None)


@pytest.mark.parametrize(("at_limit", "advantages"), [("zero", [-0.25, -0.5]), ("value", [-0.125, -0.25])])
def test_gae_of_an_episode_that_a_limit_cut_off(at_limit, advantages):
    """By hand, no reward: the last difference is 0 - 0.5, or 0.5 * 0.5 - 0.5; the one before is 0.5 * 0.5 - 0.25."""
    turns = [Turn((), Action(prompt_ids=(1,), token_ids=(2,))) for _ in range(2)]
    cut_off = Trajectory(EnvRef("e"), Task("t"), 0, turns, ending=Ending("limit", "max_turns"))
    over = Trajectory(EnvRef("e"), Task("t"), 0, turns, ending=Ending("answer"))
    empty = Trajectory(EnvRef("e"), Task("t"), 0, [], ending=Ending("limit", "max_wall_s"))
    values = np.array([0.25, 0.5])
    for estimator in (TurnGAE, TokenGAE):
        credit = estimator(gamma=0.5, lam=1.0, at_limit=at_limit)
        found = credit([TrajectoryGroup("g", [cut_off, over, empty])], [[values, values, np.zeros(0)]])
        assert [a.tolist() for a in found.advantages[0]] == [advantages, [-0.25, -0.5], []]
        assert found.returns[0][0].tolist() == [advantages[0] + 0.25, advantages[1] + 0.5]
    assert TurnGAE().at_limit == TokenGAE().at_limit == "zero"


def test_gigpo_of_a_step_leaves_faults_out():
    def episode(rewards, status="terminated"):
        turns = [Turn((), Action(), r, state_key="a" if i == 0 else None) for i, r in enumerate(rewards)]
        return Trajectory(EnvRef("e"), Task("t"), 0, turns, ending=ENDINGS[status])

    group = TrajectoryGroup("g", [episode([0.0, 1.0]), episode([9.0], "fault"), episode([0.0])])
    found = GiGPO(gamma=0.5, normalize_std=False)([group], None).advantages[0]
    by_hand = gigpo([[0.0, 1.0], [0.0]], [["a", None], ["a"]], gamma=0.5, step_weight=1.0, normalize_std=False)
    assert [v.tolist() for v in found] == [by_hand[0].tolist(), [0.0], by_hand[1].tolist()]


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
    assert gae([], [], gamma=1.0, lam=1.0)[0].tolist() == []
    with pytest.raises(ValueError, match="same shape"):
        gae([1.0], [1.0, 2.0], gamma=1.0, lam=1.0)


def test_gigpo_by_hand():
    # State "a" opens both episodes; "b" occurs in the first twice, "c" once; None never groups.
    rewards = [[0.0, 0.0, 1.0], [0.0, 0.0]]
    keys = [["a", "b", "b"], ["a", None]]
    values = gigpo(rewards, keys, gamma=0.5, step_weight=2.0, normalize_std=False)
    # Episode: +-0.5. Returns to go: 0.25, 0.5, 1.0 and 0, 0. State a: mean 0.125; state b: mean 0.75.
    assert values[0].tolist() == pytest.approx([0.5 + 2 * 0.125, 0.5 - 2 * 0.25, 0.5 + 2 * 0.25])
    assert values[1].tolist() == pytest.approx([-0.5 - 2 * 0.125, -0.5])


def test_gigpo_without_shared_states_is_grpo():
    own = {"gamma": 0.95, "step_weight": 1.0, "normalize_std": True}
    values = gigpo([[0.0, 1.0], [0.5]], [["a", "b"], ["c"]], **own)
    episode = grpo([[1.0, 0.5]])[0]
    assert [v.tolist() for v in values] == [[episode[0]] * 2, [episode[1]]]
    with pytest.raises(ValueError, match="number of turns"):
        gigpo([[1.0]], [["a", "b"]], **own)


def test_before_a_value_head_has_learnt_no_token_of_a_good_episode_looks_bad() -> None:
    """Two episodes of 30 tokens, one of them rewarded at its end; every predicted return is 0."""
    turns = [Turn((), Action(prompt_ids=(1,), token_ids=(2,) * 30), reward) for reward in (1.0, 0.0)]
    group = TrajectoryGroup("g", [Trajectory(EnvRef("e"), Task("t"), 0, [turn]) for turn in turns])
    unlearnt = [[np.zeros(30), np.zeros(30)]]
    ((good, bad),) = TokenGAE(whiten=True)([group], unlearnt).advantages
    assert (good > 0).all()
    assert (bad < 0).all()
    ((fading, _),) = TokenGAE(lam=0.95, whiten=True)([group], unlearnt).advantages
    assert (fading < 0).any()  # what makes 0.95 a bad start
