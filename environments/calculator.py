"""Arithmetic word problems with products too large for mental arithmetic, and a step that depends on the result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.tools.calculator import evaluate, format_number
from agentrl.trajectory import Task

DEFAULT_STEPS = 2
THINGS = (("boxes", "nails"), ("bags", "nuts"), ("packs", "pens"), ("trays", "eggs"), ("crates", "jars"))
_WHOLE = re.compile(r"-?\d{1,20}")


def make_task(rng: np.random.Generator, steps: int) -> dict[str, Any]:
    """Draw a problem whose answer does not occur in its text."""
    while True:
        data = _draw(rng, steps)
        if format_number(evaluate(solve(data)[-1])) not in question(data):
            return data


def _draw(rng: np.random.Generator, steps: int) -> dict[str, Any]:
    odd = bool(rng.integers(2))
    boxes, each = int(rng.integers(1000, 10_000)), int(rng.integers(12, 100))
    if odd:
        boxes, each = boxes | 1, each | 1
    elif boxes % 2 and each % 2:
        boxes -= 1
    data: dict[str, Any] = {"things": int(rng.integers(len(THINGS))), "boxes": boxes, "each": each}
    if steps >= 2:
        data |= {"add": int(rng.integers(100, 1000)), "take": int(rng.integers(100, 1000))}
    if steps >= 3:
        data |= {"last": str(rng.choice(["share", "price"])), "by": int(rng.integers(12, 100))}
    return data


def question(data: Mapping[str, Any]) -> str:
    """The problem as the model reads it."""
    boxes, things = THINGS[data["things"]]
    parts = [f"{data['boxes']} {boxes} of {data['each']} {things}."]
    if "add" in data:
        parts.append(f"If odd, add {data['add']}, else take {data['take']}.")
    match data.get("last"):
        case "share":
            parts.append(f"Share by {data['by']}: how many each?")
        case "price":
            parts.append(f"Price {data['by']} each: what sum?")
        case _:
            parts.append(f"How many {things}?")
    return " ".join(parts)


def solve(data: Mapping[str, Any], *, look: bool = True) -> list[str]:
    """The expressions that solve a problem, in order; with `look=False` it always adds, be the product odd or even."""
    expressions = [f"{data['boxes']}*{data['each']}"]
    if "add" in data:
        total = evaluate(expressions[-1])
        change = f"+{data['add']}" if total % 2 or not look else f"-{data['take']}"
        expressions.append(f"{total}{change}")
    if "last" in data:
        total = evaluate(expressions[-1])
        expressions.append(f"{total}{'//' if data['last'] == 'share' else '*'}{data['by']}")
    return expressions


@lru_cache(maxsize=3)
def _tasks(steps: int) -> Tasks:
    return Tasks.generate(partial(make_task, steps=steps), seed=8_001 + steps, train=2000, eval=200)


@register("agentrl/Calculator-v0", max_turns=8)
class Calculator(ToolEnv):
    """Solve a word problem with a calculator; each step depends on the result of the step before.

    Reward: 1 if the answer is the exact whole number and nothing else, otherwise 0.

    Args:
        steps: 1 (a product), 2 (then add if the product is odd, else subtract) or 3 (then divide or multiply).
    """

    tasks = _tasks(DEFAULT_STEPS)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, steps: int = DEFAULT_STEPS, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if steps not in (1, 2, 3):
            raise ValueError(f"steps must be 1, 2 or 3, got {steps}")
        self.tasks = _tasks(steps)

    async def start(self, task: Task) -> str:
        self.results: list[str] = []
        return question(task.data)

    @tool
    def calc(self, expr: str) -> str:
        """Compute an expression.

        Args:
            expr: for example (12 + 3) * 4.
        """
        result: str = format_number(evaluate(expr))
        self.results.append(result)
        return result

    async def score(self, answer: str | None) -> dict[str, float]:
        right = format_number(evaluate(solve(self.task.data)[-1]))
        given = (answer or "").strip().removesuffix(".").replace(",", "")
        return {"correct": float(_WHOLE.fullmatch(given) is not None and given == right)}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Compute each step in turn, then answer."""
        return self._demonstrate(solve(self.task.data))

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: add without checking whether the product is odd."""
        return self._demonstrate(solve(self.task.data, look=False))

    def _demonstrate(self, expressions: Sequence[str]) -> Action:
        for expression in expressions:
            if format_number(evaluate(expression)) not in self.results:
                return call("calc", expr=expression)
        return Action(text=format_number(evaluate(expressions[-1])))

    def state_key(self) -> str:
        return f"{self.task.id}|{','.join(dict.fromkeys(self.results))}"
