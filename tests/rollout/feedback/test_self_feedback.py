"""Self-feedback on groups made by hand: pairs, margins and rewards with numbers worked out here."""

from __future__ import annotations

import math

import pytest

from agentrl.learning.episode_columns import pairs
from agentrl.learning.rows import build_rows
from agentrl.messages import Action, TokenSignals
from agentrl.registry import Registry
from agentrl.rollout.feedback.all_pairs import drawn
from agentrl.rollout.feedback.base import FEEDBACKS
from agentrl.rollout.feedback.gold_pairs import GoldPairs
from agentrl.rollout.feedback.intrinsic.confidence import Confidence, MostConfident
from agentrl.rollout.feedback.intrinsic.ensemble import Ensemble, ranks
from agentrl.rollout.feedback.intrinsic.entropy import NegativeEntropy, SelfCertainty
from agentrl.rollout.feedback.intrinsic.majority import MajorityVote
from agentrl.rollout.feedback.intrinsic.rlcr import CorrectMinusBrier
from agentrl.rollout.feedback.random_pairs import RandomPairs
from agentrl.rollout.feedback.rewarded import PreferRewarded
from agentrl.rollout.feedback.rlsf import RLSF
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn

FAULT = Ending("fault", "x")


def episode(
    answer: str = "4",
    c: float = 0.5,
    *,
    q: float = 0.5,
    reward: float = 0.0,
    entropy: float = 0.0,
    uniform_kl: float = 0.0,
    name: str = "e",
    ending: Ending = Ending("answer"),  # noqa: B008 (frozen)
    mode: str = "sampled",
) -> Trajectory:
    """A turn of two tokens, of which the second is the answer, with confidence `c` and probability `q`."""
    texts = ("So the answer is ", answer)
    signals = TokenSignals(texts, (0.0, c), (entropy, entropy), (uniform_kl, uniform_kl))
    logprobs = (-1.0, math.log(q))
    action = Action("".join(texts), prompt_ids=(1,), token_ids=(2, 3), logprobs=logprobs, signals=signals)
    labels = Labels(mode=mode)  # type: ignore[arg-type]
    turns = [Turn((), action, reward)]
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, ending, episode_id=name, labels=labels)


async def compared(feedback, *episodes: Trajectory) -> TrajectoryGroup:
    (group,) = await feedback([TrajectoryGroup("g", list(episodes))])
    assert group.trajectories == list(episodes)
    return group


async def rewarded(feedback, *episodes: Trajectory) -> list[float]:
    before = [e.success for e in episodes]
    (group,) = await feedback([TrajectoryGroup("g", list(episodes))])
    assert [e.success for e in group.trajectories] == before
    assert [e.reward_components["self_feedback"] for e in group.trajectories] == pytest.approx(group.rewards)
    return group.rewards


async def test_rlsf_prefers_the_more_confident_if_it_is_confident_enough():
    group = await compared(RLSF(), episode(c=0.95), episode(c=0.5), episode(c=0.91), episode(c=0.89))
    assert group.preferences == ((0, 1), (0, 2), (0, 3), (2, 1), (2, 3))
    assert group.margins == pytest.approx([math.exp(d) for d in (0.45, 0.04, 0.06, 0.41, 0.02)])


async def test_equal_confidences_faults_and_greedy_baselines_make_no_pair():
    assert (await compared(RLSF(), episode(c=0.95), episode(c=0.9499))).preferences == ()
    assert (await compared(RLSF(), episode(c=0.95), episode(c=0.1, ending=FAULT))).preferences == ()
    assert (await compared(RLSF(), episode(c=0.95), episode(c=0.1, mode="greedy"))).preferences == ()
    unasked = Trajectory(EnvRef("e"), Task("t"), 0, [Turn((), Action("So the answer is 4."))])
    assert (await compared(RLSF(), episode(c=0.95), unasked)).preferences == ()


async def test_an_episode_without_an_answer_has_confidence_zero():
    empty = episode(c=0.99)
    empty.turns[0].action = Action("", signals=TokenSignals(("hm", "."), (0.99, 0.99)))
    assert (await compared(RLSF(), episode(c=0.95), empty)).preferences == ((0, 1),)


async def test_branches_are_scaled_on_request():
    branch = episode(c=0.99)
    branch.turns[0].action = Action(
        "", logprobs=(math.log(0.1), 0.0), signals=TokenSignals(("So the answer is ", "4"), (0.1 - 0.6, 0.99))
    )
    assert (await compared(RLSF(), episode(c=0.95), branch)).preferences == ((1, 0),)
    scaled = await compared(RLSF(scale_branches=True), episode(c=0.95), branch)
    assert scaled.preferences == ((0, 1),)
    assert scaled.margins == pytest.approx([math.exp(0.95 - 0.99 * math.sqrt(0.1 / 0.6))])


async def test_gold_and_random_pairs():
    group = await compared(GoldPairs(), episode(reward=0.0), episode(reward=1.0), episode(reward=0.0))
    assert group.preferences == ((1, 0), (1, 2))
    names = [episode(name=str(i)) for i in range(4)]
    one, again = await compared(RandomPairs(), *names), await compared(RandomPairs(), *names)
    assert one.preferences == again.preferences != (await compared(RandomPairs(salt=1), *names)).preferences
    assert len(one.preferences) == 6
    assert {frozenset(pair) for pair in one.preferences} == {frozenset((i, j)) for i in range(4) for j in range(i)}


def test_of_many_pairs_the_same_ones_are_drawn():
    all_pairs = [(i, j) for i in range(5) for j in range(5)]
    found = drawn(all_pairs, 4, "g")
    assert found == drawn(all_pairs, 4, "g") != drawn(all_pairs, 4, "h")
    assert len(set(found)) == 4


async def test_margins_reach_the_reward_model_and_a_later_feedback_removes_them():
    group = await compared(RLSF(), episode(c=0.95, reward=0.0), episode(c=0.45, reward=1.0))
    rows = pairs(build_rows([group]), [group])
    gaps = [float(row.column("reward_gap")[row.mask][0]) for row in rows]
    assert gaps == pytest.approx([math.exp(0.5)] * 2)
    (later,) = await PreferRewarded()([group])
    assert (later.preferences, later.margins) == (((1, 0),), ())


async def test_confidence_and_the_most_confident_episode():
    given = episode(c=0.3), episode(c=0.8), episode(c=0.8)
    assert await rewarded(Confidence(), *given) == pytest.approx([0.3, 0.8, 0.8])
    assert await rewarded(MostConfident(), *given) == [0.0, 1.0, 0.0]
    assert await rewarded(MostConfident(), episode(c=-0.5), episode(c=0.0)) == [0.0, 0.0]
    assert await rewarded(MostConfident(threshold=0.9), *given) == [0.0, 0.0, 0.0]
    assert await rewarded(MostConfident(threshold=0.8), *given) == [0.0, 1.0, 0.0]


async def test_the_environments_reward_can_be_kept_in_part():
    (group,) = await Confidence(weight=2.0, keep=0.5)([TrajectoryGroup("g", [episode(c=0.3, reward=1.0)])])
    assert group.rewards == pytest.approx([1.1])
    assert group.trajectories[0].success


async def test_majority_vote_over_answers():
    given = [episode(a) for a in ("Ann", "Bob", "ann", "Bob", "Bob")]
    assert await rewarded(MajorityVote(), *given) == [0, 1, 0, 1, 1]
    tie = [episode(a) for a in ("Ann", "Bob")]
    assert await rewarded(MajorityVote(), *tie) == [1, 0]
    silent = [Trajectory(EnvRef("e"), Task("t"), 0, [Turn((), Action("hm"))]) for _ in range(3)]
    assert await rewarded(MajorityVote(), *silent) == [0, 0, 0]


async def test_entropy_and_certainty_are_means_over_the_turn():
    assert await rewarded(NegativeEntropy(), episode(entropy=0.25), episode(entropy=0.5)) == [-0.25, -0.5]
    assert await rewarded(SelfCertainty(), episode(uniform_kl=2.0)) == [2.0]


async def test_correctness_minus_brier():
    given = episode(q=0.8, reward=1.0), episode(q=0.8), episode(q=0.1)
    assert await rewarded(CorrectMinusBrier(), *given) == pytest.approx([1 - 0.04, -0.64, -0.01])


async def test_the_ensemble_is_the_mean_of_ranks():
    assert ranks([3.0, 1.0, 1.0]) == [1.0, 0.25, 0.25]
    assert ranks([2.0]) == [0.5]
    best = episode("4", 0.9, entropy=0.1, uniform_kl=2.0)
    other = episode("4", 0.2, entropy=0.5, uniform_kl=1.0)
    worst = episode("5", 0.1, entropy=0.9, uniform_kl=0.5)
    # Confidence, entropy and certainty rank them 1, 1/2, 0; the vote 3/4, 3/4, 0.
    assert await rewarded(Ensemble(), best, other, worst) == pytest.approx([3.75 / 4, 2.25 / 4, 0.0])


async def test_a_fault_is_left_alone():
    (group,) = await Confidence()([TrajectoryGroup("g", [episode(c=0.4), episode(c=0.9, ending=FAULT)])])
    assert group.rewards == pytest.approx([0.4, 0.0])


def test_every_name_stands_for_a_feedback():
    assert isinstance(FEEDBACKS, Registry)
    for name in ("rlsf", "gold_pairs", "random_pairs", "confidence", "most_confident", "majority_vote"):
        assert FEEDBACKS.find(name)
    for name in ("negative_entropy", "self_certainty", "correct_minus_brier", "ensemble"):
        assert FEEDBACKS.find(name)().reads_signals
