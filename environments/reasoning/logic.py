"""Questions that need several steps: permutation and propositional chains, orderings, syllogisms, multiple choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.environments.reasoning import choices, orderings, permutations, propositions, syllogisms
from agentrl.environments.reasoning.problem import Problem, answer_in, written
from agentrl.messages import Action, Message
from agentrl.trajectory import Task

Draw = Callable[[np.random.Generator, int], Problem]
FAMILIES: Mapping[str, tuple[Draw, range, int]] = {
    "permutation": (permutations.draw, permutations.LEVELS, 4),
    "proposition": (propositions.draw, propositions.LEVELS, 3),
    "ordering": (orderings.draw, orderings.LEVELS, 3),
    "syllogism": (syllogisms.draw, syllogisms.LEVELS, 3),
    "choice": (choices.draw, choices.LEVELS, 3),
}
"""Family -> how a problem is drawn, its levels, and the level where none is given."""
_SIZES = {"train": 2000, "eval": 600}


def _data(rng: np.random.Generator, draw: Draw, level: int) -> dict[str, Any]:
    data: dict[str, Any] = draw(rng, level).to_data()
    return data


@lru_cache(maxsize=16)
def _tasks(family: str, level: int, show_rules: bool) -> Tasks:
    draw, _, _ = FAMILIES[family]
    sizes = dict(_SIZES)
    if family == "permutation":
        draw = partial(permutations.draw, show_rules=show_rules)
        if not show_rules:  # there are few short chains
            most = permutations.num_problems(level)
            sizes = {"train": min(2000, most * 3 // 4), "eval": min(600, most // 5)}
    seed = 9_001 + 100 * sorted(FAMILIES).index(family) + 10 * level + show_rules
    return Tasks.generate(partial(_data, draw=draw, level=level), seed=seed, **sizes)


@register("agentrl/Logic-v0", max_turns=1)
class Logic(ToolEnv):
    """Answer a question in one turn that ends with `So the answer is X.`

    Reward: 1 if X is the right word or number, otherwise 0. Steps before the answer are free.

    Args:
        family: `permutation` (a digit goes through maps), `proposition` (truth of defined letters), `ordering` (who
            stands at a place), `syllogism` (all, some or no), `choice` (sums with four answers to choose from).
        level: steps of a question; None is the family's own default.
        show_rules: write the maps of a permutation chain into the question. Without them a model has to know the maps,
            which are always the same, from demonstrations.
    """

    tasks = _tasks("permutation", 4, False)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "direct", "fallacy")
    not_state = ("tasks",)

    def __init__(
        self,
        *,
        family: str = "permutation",
        level: int | None = None,
        show_rules: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
        _, levels, default = FAMILIES[family]
        level = default if level is None else level
        if level not in levels:
            raise ValueError(f"level of {family} must be {levels.start} to {levels.stop - 1}, got {level!r}")
        if show_rules and family != "permutation":
            raise ValueError(f"show_rules is for family 'permutation'; a question of {family!r} always holds its rules")
        self.tasks = _tasks(family, level, show_rules)

    async def start(self, task: Task) -> str:
        return str(task.data["question"])

    async def score(self, answer: str | None) -> dict[str, float]:
        given = answer_in(answer or "")
        return {"correct": float(given is not None and given.casefold() == self.task.data["answer"].casefold())}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Write the steps, then the answer."""
        return Action(text=written(self.task.data["steps"], self.task.data["answer"]))

    def direct(self, messages: Sequence[Message]) -> Action:
        """The right answer without the steps: a habit that a small model cannot follow."""
        return Action(text=written([], self.task.data["answer"]))

    def fallacy(self, messages: Sequence[Message]) -> Action:
        """Confident steps with a fixed mistake, and the answer that they lead to."""
        return Action(text=written(self.task.data["wrong_steps"], self.task.data["wrong_answer"], "Clearly "))

    def state_key(self) -> str:
        return self.task.id
