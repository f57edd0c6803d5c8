import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.learning.columns import with_sampled_as_old
from agentrl.learning.importance import TIS, NoCorrection, with_importance
from agentrl.learning.rows import Row, build_rows, rows_of_trajectory, with_coefficients
from agentrl.messages import Action
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn
from tests.endings import ENDINGS

# What a chat template may do to a conversation between two turns.
EDITS = (
    "append",  # the usual case: new observation tokens
    "append_nothing",  # a turn cut off by its length goes on
    "drop_thinking",  # tokens vanish from an earlier assistant turn
    "drop_stop",  # the template does not repeat the stop token
    "retokenise",  # the last token merges with what follows
    "forget_start",  # the window slides
    "restart",  # an unrelated context, as of a sub-agent
    "resume_earlier",  # back to an earlier context, with something appended
)


def trajectory_of(turns, reward=0.0, status="terminated"):
    """A trajectory from (prompt_ids, token_ids, logprobs) triples."""
    made = [
        Turn((), Action(prompt_ids=tuple(p), token_ids=tuple(s), logprobs=tuple(lp), versions=(i,) * len(s)))
        for i, (p, s, lp) in enumerate(turns)
    ]
    if made:
        made[-1].reward = reward
    return Trajectory(EnvRef("test/Env-v0"), Task("t"), 0, made, ending=ENDINGS[status])


def draw_turns(rng):
    """Turns of an episode over a tiny alphabet, so that contexts also coincide by accident.

    Each sampled token has a logprob of its own, which tells it apart from every other token.
    """
    alphabet = rng.choice([1, 2, 4, 50])

    def tokens(least=0):
        return [rng.randrange(alphabet) for _ in range(rng.choice([least, 1, 2, 6]))]

    contexts, turns, serial = [], [], 0
    prompt = tokens(1)
    for _ in range(rng.randint(1, 6)):
        sampled = tokens()
        turns.append((prompt, sampled, [-(serial + i + 1) / 64 for i in range(len(sampled))]))
        serial += len(sampled)
        contexts.append(prompt + sampled)
        prompt = edited(rng.choice(EDITS), prompt, sampled, contexts, tokens, rng)
    return turns


def edited(edit, prompt, sampled, contexts, tokens, rng):
    """The next turn's prompt."""
    context = prompt + sampled
    if edit == "append":
        return context + tokens()
    if edit == "append_nothing":
        return context
    if edit == "drop_thinking":
        return prompt + sampled[rng.randint(0, len(sampled)) :] + tokens(1)
    if edit == "drop_stop":
        return (context[:-1] or context) + tokens()
    if edit == "retokenise":
        return context[:-1] + tokens(1)
    if edit == "forget_start":
        return context[rng.randrange(len(context)) :] + tokens()
    return tokens(1) if edit == "restart" else rng.choice(contexts) + tokens()


turn_lists = st.integers(0, 2**40).map(lambda seed: draw_turns(random.Random(seed)))


@settings(max_examples=4000, deadline=None)
@given(turn_lists)
def test_every_sampled_token_trains_exactly_once_in_the_context_it_was_sampled_in(turns):
    rows = rows_of_trajectory(trajectory_of(turns))
    trained = []
    for row in rows:
        for t in np.flatnonzero(row.mask):
            turn = row.column("turns")[t]
            prompt, sampled, logprobs = turns[turn]
            place = logprobs.index(float(row.column("sampled_logprobs")[t]))
            assert row.ids[: t + 1].tolist() == [*prompt, *sampled[: place + 1]]
            assert row.column("versions")[t] == turn
            trained.append((turn, place))
        context = ~row.mask
        assert not row.column("sampled_logprobs")[context].any()
        assert not row.column("coefficients")[context].any()
        assert (row.column("versions")[context] == -1).all()
    assert sorted(trained) == [(i, j) for i, (_, sampled, _) in enumerate(turns) for j in range(len(sampled))]


@settings(max_examples=500, deadline=None)
@given(st.lists(turn_lists, min_size=1, max_size=4), st.sampled_from(["token", "sequence", "constant"]))
def test_coefficients_count_trajectories_not_turns_rows_or_forks(episodes, aggregation):
    group = TrajectoryGroup("g", [trajectory_of(turns) for turns in episodes])
    rows = with_coefficients(build_rows([group]), aggregation, max_tokens=30)
    counts = [sum(len(sampled) for _, sampled, _ in turns) for turns in episodes]
    with_tokens = [c for c in counts if c]
    for number, count in enumerate(counts):
        mass = sum(row.column("coefficients").sum(dtype=np.float64) for row in rows if row.trajectory == number)
        if not count:
            assert mass == 0
            continue
        expected = {
            "token": count / max(1, sum(counts)),
            "sequence": 1 / len(with_tokens),
            "constant": count / (len(with_tokens) * 30),
        }[aggregation]
        assert mass == pytest.approx(expected, rel=1e-6)


def test_an_exact_prefix_extends_one_row():
    rows = rows_of_trajectory(trajectory_of([([1, 2], [3, 4], [-0.5, -1.0]), ([1, 2, 3, 4, 5], [6], [-2.0])]))
    assert len(rows) == 1
    assert rows[0].ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert rows[0].mask.tolist() == [False, False, True, True, False, True]
    assert rows[0].column("sampled_logprobs").tolist() == [0, 0, -0.5, -1.0, 0, -2.0]


def test_a_changed_history_forks_a_row_whose_context_does_not_train():
    rows = rows_of_trajectory(trajectory_of([([1, 2], [3, 4], [-0.5, -1.0]), ([1, 2, 4, 5], [6], [-2.0])]))
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3, 4], [1, 2, 4, 5, 6]]
    assert [np.flatnonzero(row.mask).tolist() for row in rows] == [[2, 3], [4]]


def test_interleaved_contexts_each_keep_their_row():
    turns = [([1], [2], [-1.0]), ([9], [8], [-2.0]), ([1, 2, 3], [4], [-3.0]), ([9, 8, 7], [6], [-4.0])]
    rows = rows_of_trajectory(trajectory_of(turns))
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3, 4], [9, 8, 7, 6]]


def test_faults_never_become_rows_and_keep_their_number():
    turns = [([1], [2], [-1.0])]
    group = TrajectoryGroup("g", [trajectory_of(turns, status="fault"), trajectory_of(turns)])
    rows = with_coefficients(build_rows([group, group]), "token")
    assert [row.trajectory for row in rows] == [1, 3]
    assert [float(row.column("coefficients")[1]) for row in rows] == [0.5, 0.5]


def test_a_greedy_baseline_never_becomes_rows_and_weighs_nothing():
    turns = [([1], [2], [-1.0])]
    greedy = trajectory_of([([1], [2, 3, 4], [-1.0] * 3)])
    greedy.labels = Labels(mode="greedy")
    groups = [TrajectoryGroup("g", [trajectory_of(turns), greedy]), TrajectoryGroup("h", [trajectory_of(turns)])]
    for aggregation in ("token", "sequence"):
        rows = with_coefficients(build_rows(groups), aggregation)
        assert [row.trajectory for row in rows] == [0, 2]
        assert [float(row.column("coefficients")[1]) for row in rows] == [0.5, 0.5]


def test_hand_computed_coefficients():
    rows = [
        Row.of([1, 2, 3, 4], [False, True, True, True], trajectory=0),
        Row.of([1, 2], [False, True], trajectory=1),
        Row.of([1, 2], [False, True], trajectory=0),
    ]

    def weights(aggregation, **options):
        return [float(row.column("coefficients")[1]) for row in with_coefficients(rows, aggregation, **options)]

    assert weights("token") == pytest.approx([0.2] * 3)
    assert weights("sequence") == [0.125, 0.5, 0.125]
    assert weights("constant", max_tokens=8) == [1 / 16] * 3
    assert weights("token", counted={0}) == [0.25, 0, 0.25]
    assert weights("sequence", counted={1}) == [0, 1, 0]
    assert weights("constant", max_tokens=8, counted={1}) == [0, 0.125, 0]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn((), Action(text="hi")), "no token ids"),
        (Turn((), Action(prompt_ids=(), token_ids=(1,), logprobs=(-1.0,))), "empty prompt"),
        (Turn((), Action(prompt_ids=(1,), token_ids=(1, 2), logprobs=(-1.0,))), "2 sampled ids but 1 logprobs"),
    ],
)
def test_turns_that_cannot_train_are_refused(turn, message):
    with pytest.raises(ValueError, match=message):
        rows_of_trajectory(Trajectory(EnvRef("e"), Task("t"), 0, [turn]))


def test_bad_rows_are_refused():
    with pytest.raises(ValueError, match="needs max_tokens"):
        with_coefficients([Row.of([1, 2], [False, True])], "constant")
    with pytest.raises(ValueError, match="'token', 'sequence' or 'constant'"):
        with_coefficients([Row.of([1, 2], [False, True])], "turn")
    with pytest.raises(ValueError, match="no token predicts it"):
        Row.of([1, 2], [True, True])
    with pytest.raises(ValueError, match=r"Row.advantages must have shape \(2,\) like ids, got \(3,\)"):
        Row(np.array([1, 2]), np.array([False, True]), {"advantages": np.zeros(3)})
    with pytest.raises(ValueError, match="the row has no column 'advantages', only coefficients, sampled_logprobs"):
        Row.of([1, 2], [False, True]).column("advantages")


def test_ids_without_logprobs_never_count_as_certain():
    known = trajectory_of([([1, 2], [3], [-0.5])])
    known.turns.append(Turn((), Action(prompt_ids=(1, 2, 3, 4), token_ids=(5, 6))))
    (row,) = rows_of_trajectory(known)
    assert np.isnan(row.column("sampled_logprobs")).tolist() == [False] * 4 + [True] * 2
    filled = [row.with_columns(old_logprobs=np.zeros(len(row), np.float32), advantages=row.column("coefficients"))]
    assert not np.isnan(with_importance(filled, NoCorrection())[0].column("old_logprobs")).any()
    for refused in (lambda: with_sampled_as_old([row]), lambda: with_importance(filled, TIS())):
        with pytest.raises(ValueError, match="2 sampled tokens have ids but no log-probabilities"):
            refused()


@pytest.mark.parametrize("impossible", [0.5, math.inf, -math.inf])
def test_a_logprob_that_no_sampled_token_has_is_refused(impossible):
    with pytest.raises(ValueError, match=f"1 sampled tokens have log-probabilities .* such as {impossible:g}: natural"):
        rows_of_trajectory(trajectory_of([([1, 2], [3, 4], [-0.5, impossible])]))
    (row,) = rows_of_trajectory(trajectory_of([([1, 2], [3, 4], [-0.5, 0.004])]))  # rounded to bfloat16
    assert row.num_trained == 2
