"""Follow instructions: write a text that has a form, a length, a language and certain words, all checked by code."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.environments.instructions import layout_kinds, word_kinds  # noqa: F401 (they register their kinds)
from agentrl.environments.instructions.constraint import KINDS, Constraint, followed, of_data, text_for
from agentrl.environments.instructions.words import LEXICONS
from agentrl.messages import Action, Message
from agentrl.trajectory import Task

LEVELS = {1: 2, 2: 3, 3: 4}
"""Level -> constraints of a task."""


def make_task(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Draw `count` constraints of different groups that one text can follow, but that of the instructions does not.

    At least one of them is demanding.
    """
    groups = sorted({kind.group for kind in KINDS.values()})
    while True:
        words = LEXICONS["English"]
        chosen = [str(group) for group in rng.choice(groups, count, replace=False)]
        if "language" in chosen:
            words = LEXICONS[str(rng.choice(list(LEXICONS)))]
        drawn = [_drawn(rng, group, words) for group in chosen]
        # The order is a function of the constraints, so that no two tasks have the same ones.
        ordered = sorted(drawn, key=lambda one: zlib.crc32(one.says.encode()))
        repeated = all(followed(_request(ordered), ordered))
        if any(one.demanding for one in drawn) and all(followed(text_for(drawn), drawn)) and not repeated:
            return {"constraints": [one.to_data() for one in ordered]}


def _request(constraints: Sequence[Constraint]) -> str:
    return f"Write a list of food, {', '.join(one.says for one in constraints)}."


def _drawn(rng: np.random.Generator, group: str, words: Sequence[str]) -> Constraint:
    kinds = [kind for kind in KINDS.values() if kind.group == group]
    return kinds[int(rng.integers(len(kinds)))].draw(rng, words)


@lru_cache(maxsize=3)
def _tasks(level: int) -> Tasks:
    return Tasks.generate(partial(make_task, count=LEVELS[level]), seed=73_000 + level, train=2000, eval=200)


@register("agentrl/Instructions-v0", max_turns=1)
class Instructions(ToolEnv):
    """Write a text that follows all instructions, in one turn.

    Reward: 1 if the text follows every instruction, otherwise 0. `info["followed"]` is the share that it follows.

    Args:
        level: 1 (two instructions), 2 (three) or 3 (four).
    """

    tasks = _tasks(1)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, level: int = 1, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if level not in LEVELS:
            raise ValueError(f"level must be 1, 2 or 3, got {level!r}")
        self.tasks = _tasks(level)

    async def start(self, task: Task) -> str:
        return _request(self._constraints)

    async def score(self, answer: str | None) -> dict[str, float]:
        found = followed(answer or "", self._constraints)
        self.add_info(followed=sum(found) / len(found))
        return {"correct": float(all(found))}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Write a text that follows all instructions."""
        return Action(text=text_for(self._constraints))

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: overlook the last instruction."""
        return Action(text=text_for(self._constraints[:-1]))

    def state_key(self) -> str:
        return self.task.id

    @property
    def _constraints(self) -> list[Constraint]:
        return [of_data(data) for data in self.task.data["constraints"]]
