"""Permutation chains: a digit goes through a row of maps, each of which turns every digit into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from agentrl.environments.reasoning.problem import Problem

LETTERS = "abcd"
LEVELS = range(1, 7)


@cache
def known_maps() -> Mapping[str, tuple[int, ...]]:
    """The maps of questions that do not show them; a model learns them from demonstrations."""
    rng = np.random.default_rng(7)
    return {letter: tuple(int(n) for n in rng.permutation(10)) for letter in LETTERS}


def draw(rng: np.random.Generator, level: int, *, show_rules: bool = False) -> Problem:
    """A question with `level` maps.

    Args: show_rules: draw new maps for the question and write them into it.
    """
    letters = [str(letter) for letter in rng.choice(list(LETTERS), level)]
    start = int(rng.integers(10))
    maps = {c: tuple(int(n) for n in rng.permutation(10)) for c in LETTERS} if show_rules else known_maps()
    rules = "".join(_rule(letter, maps[letter]) for letter in sorted(set(letters))) if show_rules else ""
    right = _through(start, letters, maps)
    wrong = _through(start, ["a" if letter == "b" else letter for letter in letters], maps)
    question = f"{rules}Start {start}, apply {' '.join(letters)}."
    return Problem(question, right[:-1], right[-1], wrong[:-1], wrong[-1])


def num_problems(level: int) -> int:
    """How many questions there are without shown rules."""
    return int(10 * len(LETTERS) ** level)


def _through(start: int, letters: Sequence[str], maps: Mapping[str, Sequence[int]]) -> list[str]:
    """The digit after each map."""
    found, now = [], start
    for letter in letters:
        now = maps[letter][now]
        found.append(str(now))
    return found


def _rule(letter: str, values: Sequence[int]) -> str:
    return f"{letter} turns {' '.join(f'{i}>{v}' for i, v in enumerate(values))}. "
