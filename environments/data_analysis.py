"""Answer a question about a table with a Python notebook. `data_tables` owns the tables and questions.

The demonstrator `hasty` computes from the first rows alone, which gives the right answer for short tables only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.env.toolbox import Offered
from agentrl.environments.data_tables import FAMILIES, FILE, Question, Sale, as_csv, of_first_rows, problem
from agentrl.messages import Action, Message
from agentrl.sandbox.base import SandboxLimits
from agentrl.sandboxed.env import SandboxEnv
from agentrl.tools.python_session import python_tool
from agentrl.trajectory import Task

_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,10})?")
HASTY_ROWS = 40
_TOLERANCE = Fraction(6, 1000)
"""The question asks for two decimals: half a unit of the last one, and a little more for rounding errors."""


def make_task(rng: np.random.Generator) -> dict[str, Any]:
    """Draw a kind of question and the seed of a table."""
    names = list(FAMILIES)
    return {"family": names[int(rng.integers(len(names)))], "seed": int(rng.integers(2**31))}


@lru_cache(maxsize=256)
def _problem(family: str, seed: int) -> tuple[list[Sale], Question]:
    made: tuple[list[Sale], Question] = problem(family, seed)
    return made


def right(answer: str, expected: Fraction | str) -> bool:
    """Whether an answer is the number (to two decimals) or the name, and nothing else."""
    given = answer.strip().removesuffix(".")
    if isinstance(expected, str):
        return given.casefold() == expected
    given = given.replace(",", "").removesuffix("%")
    if not _NUMBER.fullmatch(given):
        return False
    return abs(Fraction(given) - expected) <= (0 if expected.denominator == 1 else _TOLERANCE)


@register("agentrl/DataAnalysis-v0", max_turns=8)
class DataAnalysis(SandboxEnv):
    """Answer a question about a table of sales, with a Python notebook.

    Reward: 1 if the answer is the right number, to two decimals, or the right name and nothing else; otherwise 0.

    Args:
        backend, backend_options: as for `SandboxEnv`.
    """

    tasks = Tasks.generate(make_task, seed=61_001, train=2000, eval=200)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits(wall_s=10.0, cpu_s=5.0, output_bytes=64 * 1024)
    extra_tools: Sequence[Offered] = (python_tool(notebook=True, max_chars=2000),)

    async def start(self, task: Task) -> str:
        sales, question = self._problem()
        self.put_files({FILE: as_csv(sales).encode()})
        columns = "date, buyer, region, product, units, price"
        return (
            f"{FILE} has the columns {columns}; rows without units do not count. {question.text} "
            "Answer with the name or the number alone, to two decimals where it is not whole."
        )

    async def score(self, answer: str | None) -> dict[str, float]:
        return {"correct": float(right(answer or "", self._problem()[1].answer))}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Compute the answer in one cell, then answer with its output."""
        if messages[-1].role == "tool":
            return Action(text=messages[-1].content)
        return call("python", code=self._problem()[1].code)

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: compute from the first 40 rows alone."""
        if messages[-1].role == "tool":
            return Action(text=messages[-1].content)
        return call("python", code=of_first_rows(self._problem()[1].code, HASTY_ROWS))

    def _problem(self) -> tuple[list[Sale], Question]:
        return _problem(self.task.data["family"], self.task.data["seed"])
