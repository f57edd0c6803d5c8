"""Orderings: comparisons of neighbours in shuffled order; the question is who stands at a place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from agentrl.environments.reasoning.problem import Problem

LEVELS = range(1, 8)
_NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")


def draw(rng: np.random.Generator, level: int) -> Problem:
    """A question about `level` + 2 people, tallest first."""
    order = [str(name) for name in rng.permutation(_NAMES)[: level + 2]]
    place = int(rng.integers(len(order)))
    pairs = list(pairwise(order))
    told = [pairs[i] for i in rng.permutation(len(pairs))]
    texts = [f"{b} is shorter than {a}." if rng.integers(2) else f"{a} is taller than {b}." for a, b in told]
    mentioned = list(dict.fromkeys(name for pair in told for name in pair))  # the mistake: the order of the telling
    question = f"{' '.join(texts)} Who is number {place + 1}, tallest first?"
    return Problem(question, order[: place + 1], order[place], mentioned[: place + 1], mentioned[place])
