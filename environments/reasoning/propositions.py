"""Propositional chains: each letter is defined by letters before it; the question is whether the last is true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agentrl.environments.reasoning.problem import Problem

LEVELS = range(1, 9)
_NAMES = "ABCDEFGHIJKL"
_FORMS = ("{0}", "not {0}", "{0} and {1}", "{0} or {1}", "not {0} and {1}")


def draw(rng: np.random.Generator, level: int) -> Problem:
    """A question with `level` definitions over two given truths, in shuffled order."""
    names = [str(n) for n in rng.permutation(list(_NAMES))[: level + 2]]
    given = {name: bool(rng.integers(2)) for name in names[:2]}
    rules: dict[str, tuple[str, str, str]] = {}
    for number, name in enumerate(names[2:], start=2):
        first = names[number - 1]  # the definition before it is always needed
        second = names[int(rng.integers(number - 1))]
        rules[name] = (str(rng.choice(_FORMS)), first, second)
    right = _values(given, rules)
    facts = [f"{name} is {_word(value)}." for name, value in given.items()]
    told = [*facts, *(f"{name} is {form.format(a, b)}." for name, (form, a, b) in rules.items())]
    question = f"{' '.join(str(t) for t in rng.permutation(told))} Is {names[-1]} true or false?"
    steps, answer = _chain(right)
    return Problem(question, steps, answer, steps, _word(answer == "false"))  # the mistake: the last step is turned


def _values(given: Mapping[str, bool], rules: Mapping[str, tuple[str, str, str]]) -> dict[str, bool]:
    """The truth of each defined letter."""
    known = dict(given)
    for name, (form, first, second) in rules.items():
        a, b = known[first], known[second]
        a = not a if form.startswith("not") else a
        known[name] = (a and b) if "and" in form else (a or b) if "or" in form else a
    return {name: known[name] for name in rules}


def _chain(values: Mapping[str, bool]) -> tuple[list[str], str]:
    words = [f"{name} {_word(value)}" for name, value in values.items()]
    return words[:-1], _word(list(values.values())[-1])


def _word(value: bool) -> str:
    return "true" if value else "false"
