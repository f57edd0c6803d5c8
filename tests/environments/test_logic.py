"""Questions with a chain of steps: each family's answers against an independent solver, and the three demonstrators."""

from __future__ import annotations

import itertools
import json
import re
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from agentrl.bench.evaluate import aevaluate
from agentrl.env.registry import make, reference
from agentrl.environments.reasoning import permutations
from agentrl.environments.reasoning.logic import FAMILIES
from agentrl.environments.reasoning.problem import answer_in
from agentrl.environments.reasoning.syllogisms import conclusion
from agentrl.policy.scripted import OraclePolicy

ID = "agentrl/Logic-v0"
ALL_LEVELS = [(family, level) for family, (_, levels, _) in FAMILIES.items() for level in levels]


def tasks_of(family, **options):
    env = make(reference(ID, family=family, **options))
    return env, env.tasks.split("eval")


@pytest.mark.parametrize(("family", "level"), ALL_LEVELS)
async def test_the_oracle_solves_every_level_and_silence_none(family, level):
    ref = reference(ID, family=family, level=level)
    env = make(ref)
    tasks = env.tasks.split("eval")[:40]
    assert (await aevaluate(OraclePolicy(), ref, tasks)).mean == 1.0
    for text in ("", "7", "true", "So the answer is", "So the answer is ."):
        env.reset(options={"task": tasks[0]})
        assert env.step(text)[1] == 0.0
    marks = {s: {json.dumps(t.data, sort_keys=True) for t in env.tasks.split(s)} for s in ("train", "eval")}
    assert not marks["train"] & marks["eval"]


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_fallacy_is_confident_and_mostly_wrong_and_the_direct_habit_has_no_steps(family):
    ref = reference(ID, family=family)
    tasks = make(ref).tasks.split("eval")[:100]
    assert (await aevaluate(OraclePolicy({"direct": 1.0}), ref, tasks)).mean == 1.0
    fallacy = await aevaluate(OraclePolicy({"fallacy": 1.0}), ref, tasks)
    assert fallacy.mean <= 0.65
    assert all(t.turns[0].action.text.startswith("Clearly") for t in fallacy.trajectories)


@pytest.mark.parametrize("family", FAMILIES)
def test_gymnasium_accepts_it_without_a_warning(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(reference(ID, family=family)))
        gymnasium.make(ID).close()


def test_shown_rules_are_all_that_a_permutation_chain_needs():
    _, tasks = tasks_of("permutation", show_rules=True)
    for task in tasks[:100]:
        question = task.data["question"]
        maps = {m[0]: dict(p.split(">") for p in m[1].split()) for m in re.findall(r"(\w) turns ([\d> ]+)\.", question)}
        start, letters = re.search(r"Start (\d), apply ([a-d ]+)\.", question).groups()
        for letter in letters.split():
            start = maps[letter][start]
        assert start == task.data["answer"]


def test_short_chains_are_fewer_and_splits_stay_disjoint():
    env = make(reference(ID, level=1))
    assert {name: len(env.tasks.split(name)) for name in env.tasks.splits} == {"train": 30, "eval": 8}
    assert permutations.num_problems(4) == 2560


def test_propositions_equal_pythons_own_logic():
    _, tasks = tasks_of("proposition", level=5)
    for task in tasks[:100]:
        told, asked = re.fullmatch(r"(.*) Is (\w) true or false\?", task.data["question"]).groups()
        left = dict(sentence.rstrip(".").split(" is ", 1) for sentence in told.split(". "))
        known = {name: text == "true" for name, text in left.items() if text in ("true", "false")}
        while asked not in known:
            for name, text in left.items():
                if set(re.findall(r"\b[A-L]\b", text)) <= known.keys() and name not in known:
                    known[name] = eval(text, {"__builtins__": {}}, known)
        assert task.data["answer"] == str(known[asked]).lower()


def test_orderings_follow_from_the_comparisons():
    _, tasks = tasks_of("ordering", level=4)
    for task in tasks[:100]:
        pairs = re.findall(r"(\w+) is (shorter|taller) than (\w+)", task.data["question"])
        taller = {(b, a) if word == "shorter" else (a, b) for a, word, b in pairs}
        names = {name for pair in taller for name in pair}
        orders = [o for o in itertools.permutations(names) if all(o.index(a) < o.index(b) for a, b in taller)]
        place = int(re.search(r"number (\d)", task.data["question"]).group(1))
        assert [order[place - 1] for order in orders] == [task.data["answer"]]


def _strongest(statements):
    """By all models: a model is the set of combinations of kinds that have members; no kind is empty."""
    size = len(statements) + 1
    cells = list(itertools.product((False, True), repeat=size))
    holds = {"all", "some", "no"}
    for inhabited in itertools.product((False, True), repeat=len(cells)):
        members = [cell for cell, there in zip(cells, inhabited, strict=True) if there]
        if not all(any(m[k] for m in members) for k in range(size)):
            continue
        if all(_true(s, k, k + 1, members) for k, s in enumerate(statements)):
            holds = {s for s in holds if _true(s, 0, size - 1, members)}
    return next((s for s in ("all", "no", "some") if s in holds), "unknown")


def _true(statement, a, b, members):
    both, only = any(m[a] and m[b] for m in members), any(m[a] and not m[b] for m in members)
    return {"all": not only, "some": both, "no": not both}[statement]


@pytest.mark.parametrize("statements", [*itertools.product(("all", "some", "no"), repeat=2)])
def test_syllogisms_of_two_statements_hold_in_every_model(statements):
    assert conclusion(statements)[-1] == _strongest(statements)


def test_longer_syllogisms_are_composed_left_to_right():
    assert conclusion(["all", "all", "no", "all"]) == ["all", "all", "no", "unknown"]
    assert conclusion(["some", "all", "all"]) == ["some", "some", "some"]


def test_choices_show_the_sum_of_the_story_once():
    _, tasks = tasks_of("choice")
    for task in tasks[:100]:
        story, options = task.data["question"].split(". How many are left? ")
        now = int(re.search(r"has (\d+)", story).group(1))
        for event in story.split(", ")[1:]:
            by = int(re.search(r"\d+", event).group()) if "doubles" not in event else 0
            now = now * 2 if "doubles" in event else now - by if "gives" in event else now + by
        shown = dict(re.findall(r"([A-D])\) (\d+)", options))
        assert [letter for letter, value in shown.items() if int(value) == now] == [task.data["answer"]]
        assert len(set(shown.values())) == 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 1. So the answer is 4.", "4"),
        ("So the answer is 4. So the answer is true", "true"),
        ("So the answer is: Ann.\n", "Ann"),
        ("the answer is 4", None),
        ("", None),
    ],
)
def test_the_last_answer_counts(text, answer):
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "riddle"}, "family must be one of permutation"),
        ({"family": "choice", "level": 1}, "level of choice must be 2 to 6, got 1"),
        ({"family": "choice", "show_rules": True}, "show_rules is for family 'permutation'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(reference(ID, **options))
