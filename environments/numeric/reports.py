"""Texts with a number that depends on their words: repair reports, and small programs with their instruction counts.

Both are drawn from a generator. In a report the cost of an event is a product of its part, its state and its duration,
and a denied event costs nothing, so that no sum over single words gives the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PARTS = {"pump": 8.0, "valve": 3.0, "motor": 12.0, "filter": 2.0, "belt": 5.0, "fan": 4.0}
STATES = {"worn": 0.5, "hot": 1.0, "stuck": 1.5, "broken": 2.0}
_NOISE = 0.05
COSTS = {"add": 1, "mul": 3, "div": 8}
_MOST_DEPTH = 2


def report(rng: np.random.Generator) -> tuple[str, float]:
    """A report of two or three events, and its cost with 5% of noise."""
    parts = rng.permutation(list(PARTS))[: int(rng.integers(2, 4))]
    events = [_event(rng, str(part)) for part in parts]
    cost = sum(cost for _, cost in events)
    return " ".join(text for text, _ in events), round(cost * (1 + _NOISE * float(rng.standard_normal())), 2)


def _event(rng: np.random.Generator, part: str) -> tuple[str, float]:
    state = str(rng.choice(list(STATES)))
    in_hours = bool(rng.integers(2))
    length = int(rng.integers(1, 6)) if in_hours else 10 * int(rng.integers(1, 10))
    duration = f"{length} {'hours' if in_hours else 'minutes'}"
    form = int(rng.integers(4))
    hours = length if in_hours else length / 60
    cost = PARTS[part] * STATES[state] * hours
    if form == 0:
        return f"In {duration} of tests the {part} was not {state}.", 0.0
    if form == 1:
        return f"For {duration} the {part} was {state}.", cost
    return f"The {part} was {state} for {duration}.", cost


def program(rng: np.random.Generator) -> tuple[str, float]:
    """A small program, and the binary logarithm of the number of machine steps that it takes.

    `add` takes 1 step, `mul` 3, `div` 8; `loop n { }` takes 1 more for each round; `odd { }` takes 1 for its test in
    each round of the loop around it, and its body is executed in rounds 1, 3, ...
    """
    tree = _block(rng, 0)
    return _text(tree), round(math.log2(steps(tree)), 4)


def _block(rng: np.random.Generator, depth: int) -> list[Any]:
    return [_node(rng, depth) for _ in range(int(rng.integers(1, 4)))]


def _node(rng: np.random.Generator, depth: int) -> Any:
    draw = rng.random()
    if draw < 0.45 and depth < _MOST_DEPTH:
        return ["loop", int(rng.integers(2, 10)), _block(rng, depth + 1)]
    if draw < 0.6 and depth > 0:
        return ["odd", 0, [str(rng.choice(list(COSTS)))]]
    return str(rng.choice(list(COSTS)))


def steps(tree: Sequence[Any], number: int = 0) -> int:
    """Machine steps of a block, executed node by node.

    Args:
        tree: names of operations, and `[name, count, block]`.
        number: of the round of the loop around it.
    """
    total = 0
    for node in tree:
        if isinstance(node, str):
            total += COSTS[node]
        elif node[0] == "loop":
            total += sum(1 + steps(node[2], round_) for round_ in range(node[1]))
        else:
            total += 1 + (steps(node[2], number) if number % 2 else 0)
    return total


def _text(tree: Sequence[Any]) -> str:
    words = []
    for node in tree:
        if isinstance(node, str):
            words.append(node)
        else:
            head = f"loop {node[1]}" if node[0] == "loop" else "odd"
            words.append(f"{head} {{ {_text(node[2])} }}")
    return " ".join(words)
