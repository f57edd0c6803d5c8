"""Instructions: every kind of constraint by itself, compositions, both demonstrators, and texts that must not pass."""

from __future__ import annotations

import json
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentrl.bench.evaluate import aevaluate
from agentrl.env.check import check_env as check_ours
from agentrl.env.registry import make, reference
from agentrl.environments.instructions.constraint import KINDS, followed, of_data, text_for
from agentrl.environments.instructions.instructions import LEVELS, make_task
from agentrl.environments.instructions.layout_kinds import (
    Bullets,
    Capitals,
    Commas,
    Json,
    Lines,
    Numbered,
    Quoted,
    Sentences,
    Small,
    Title,
)
from agentrl.environments.instructions.word_kinds import (
    AtLeast,
    AtMost,
    Exactly,
    First,
    InLanguage,
    Last,
    Times,
    With,
    Without,
)
from agentrl.environments.instructions.words import LEXICONS
from agentrl.policy.scripted import NullPolicy, OraclePolicy

ID = "agentrl/Instructions-v0"
# A constraint, texts that follow it, and texts that do not.
CASES = [
    (Lines(2), ["tea\nmilk cake", "  tea\nmilk\n"], ["tea milk", "tea\n\nmilk", "tea\nmilk\ncake", "tea\n-"]),
    (Bullets(2), ["- tea\n- milk"], ["tea\nmilk", "-tea\n- milk", "- tea\n- milk\n- cake", "- tea\n- "]),
    (Numbered(2), ["1. tea\n2. milk cake"], ["1. tea\n3. milk", "1) tea\n2) milk", "1. tea", "1. 1\n2. 2"]),
    (Sentences(2), ["Tea. Milk cake.", "tea.milk."], ["tea. milk", "tea.", "tea. . milk."]),
    (Commas(), ["tea, milk", "tea,milk,cake"], ["tea", "tea, milk cake", "tea, ,milk"]),
    (Json(), ['["tea"]', '["tea", "milk"]'], ["tea", '"tea"', '["tea", 1]', '{"tea": "milk"}', "[" * 5000 + "tea"]),
    (Title(), ["<<tea>> milk", "milk\n<<tea>>"], ["<tea> milk", "<<>> tea", "<<1>> tea", "<<tea\nmilk>>"]),
    (Quoted(), ['"tea milk"', ' "tea" '], ['tea "milk"', '"tea', "'tea'", '"']),
    (Capitals(), ["TEA MILK", "THÉ, 1"], ["Tea", "tea"]),
    (Small(), ["tea, milk 1", "thé"], ["Tea", "TEA"]),
    (Exactly(2), ["tea milk", '["tea", "milk"]', "1. tea 2. milk"], ["tea", "tea milk cake"]),
    (AtLeast(2), ["tea milk", "tea milk cake"], ["tea"]),
    (AtMost(2), ["tea", "tea milk"], ["tea milk cake"]),
    (With("tea"), ["milk tea", "TEA!"], ["milk", "teas", "teapot"]),
    (Without("tea"), ["milk", "teas"], ["milk tea", "Tea"]),
    (First("tea"), ["tea milk", "- <<Tea>>"], ["milk tea"]),
    (Last("tea"), ["milk tea.", '["milk", "tea"]'], ["tea milk"]),
    (Times("tea", 2), ["tea milk Tea"], ["tea milk", "tea tea tea"]),
    (InLanguage("German"), ["Tee, bitte", "SUPPE"], ["tea", "Tee with milk", "bitte"]),
]


@pytest.mark.parametrize(("constraint", "good", "bad"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_each_kind_tells_texts_apart(constraint, good, bad):
    assert [followed(text, [constraint]) for text in good] == [[True]] * len(good)
    assert [followed(text, [constraint]) for text in bad] == [[False]] * len(bad)
    assert of_data(json.loads(json.dumps(constraint.to_data()))) == constraint


def test_every_registered_kind_is_tried_above():
    assert {type(constraint) for constraint, *_ in CASES} == set(KINDS.values())
    assert len(KINDS) >= 12
    assert {kind.group for kind in KINDS.values()} >= {"layout", "length", "language", "keyword"}


@pytest.mark.parametrize("text", ["", " ", "\n", "...", "1. 2. 3.", "[]", '""', "- \n- "])
def test_a_text_without_words_follows_nothing(text):
    assert not any(followed(text, [constraint for constraint, *_ in CASES]))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_can_be_followed_and_asks_for_something_of_its_own(name):
    rng = np.random.default_rng(1)
    for _ in range(20):
        language = str(rng.choice(list(LEXICONS)))
        constraint = KINDS[name].draw(rng, LEXICONS[language])
        assert followed(text_for([constraint], language), [constraint]) == [True]
        if constraint.demanding:
            assert not constraint.holds("yes")


def test_constraints_compose_and_contradictions_are_seen():
    asked = [Bullets(3), Capitals(), InLanguage("German"), Exactly(5), Last("brot")]
    text = text_for(asked)
    assert text == "- TEE\n- MILCH\n- KUCHEN REIS BROT"
    assert followed(text, asked) == [True] * 5
    against = [Exactly(2), Times("tea", 3)]
    assert followed(text_for(against), against) != [True, True]


@pytest.mark.parametrize("level", LEVELS)
async def test_the_oracle_follows_all_and_the_habit_overlooks_one(level):
    ref = reference(ID, level=level)
    env = make(ref)
    tasks = env.tasks.split("eval")
    assert (await aevaluate(OraclePolicy(), ref, tasks)).mean == 1.0
    assert (await aevaluate(NullPolicy(), ref, tasks)).mean == 0.0
    hasty = await aevaluate(OraclePolicy({"hasty": 1.0}), ref, tasks)
    assert 0.05 <= hasty.mean <= 0.5
    assert min(t.info["followed"] for t in hasty.trajectories) == pytest.approx(1 - 1 / LEVELS[level])
    for task in tasks[:50]:
        messages, _ = env.reset(options={"task": task})
        assert len(messages[0].content) <= 120
        for text in ("", "0", "42", "yes", "I do not know"):
            env.reset(options={"task": task})
            assert env.step(text)[1] == 0.0


@pytest.mark.parametrize("level", LEVELS)
def test_splits_are_disjoint_whatever_the_order_of_the_instructions(level):
    tasks = make(reference(ID, level=level)).tasks
    marks = {
        split: {json.dumps(sorted(map(json.dumps, task.data["constraints"]))) for task in tasks.split(split)}
        for split in ("train", "eval")
    }
    assert [len(marks["train"]), len(marks["eval"])] == [2000, 200]
    assert not marks["train"] & marks["eval"]
    drawn = make_task(np.random.default_rng(3), LEVELS[level])
    assert len({KINDS[one["kind"]].group for one in drawn["constraints"]}) == LEVELS[level]


def test_both_checkers_accept_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(ID))
        gymnasium.make(ID).close()
    assert check_ours(ID).ok


def test_other_levels_are_refused():
    with pytest.raises(ValueError, match="level must be 1, 2 or 3, got 4"):
        make(reference(ID, level=4))
