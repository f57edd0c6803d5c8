"""Syllogisms: a chain of statements about all, some or no members; which one holds of the first and the last?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from agentrl.environments.reasoning.problem import Problem

Quantifier = Literal["all", "some", "no", "unknown"]
LEVELS = range(2, 7)
_KINDS = ("wugs", "lims", "daxes", "fens", "gorps", "hubs", "jags", "kips", "mobs", "neps")
_DRAWN: tuple[Quantifier, ...] = ("all", "some", "no")
_SHARES = (0.7, 0.15, 0.15)
_FOLLOWS: dict[tuple[Quantifier, Quantifier], Quantifier] = {
    ("all", "all"): "all",
    ("all", "no"): "no",
    ("some", "all"): "some",
}


def conclusion(statements: Sequence[Quantifier]) -> list[Quantifier]:
    """What follows about the first kind and each later one; no kind is empty.

    Args: statements: `all` in place i says that all members of kind i are members of kind i + 1.
    Returns: the strongest of `all`, `some` and `no` that follows, `unknown` where none does.
    """
    found: list[Quantifier] = [statements[0]]
    for statement in statements[1:]:
        found.append(_FOLLOWS.get((found[-1], statement), "unknown"))
    return found


def draw(rng: np.random.Generator, level: int) -> Problem:
    """A question with `level` statements, told in order."""
    kinds = [str(kind) for kind in rng.permutation(_KINDS)[: level + 1]]
    statements: list[Quantifier] = [_DRAWN[int(rng.choice(len(_DRAWN), p=_SHARES))] for _ in range(level)]
    right = conclusion(statements)
    wrong = [right[0], *statements[1:]]  # the mistake: the last statement is taken to hold of the first kind
    told = " ".join(f"{s.capitalize()} {a} are {b}." for s, a, b in zip(statements, kinds, kinds[1:], strict=False))
    question = f"{told} Are all, some or no {kinds[0]} {kinds[-1]}, or is it unknown?"
    return Problem(question, *_chain(right, kinds), *_chain(wrong, kinds))


def _chain(found: Sequence[Quantifier], kinds: Sequence[str]) -> tuple[list[str], str]:
    return [f"{one} {kind}" for one, kind in zip(found[:-1], kinds[1:], strict=False)], found[-1]
