"""Write a small function from its description; hidden tests score it. `function_families` owns the problems."""

from __future__ import annotations

import re
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.environments.function_families import FAMILIES, LEVELS, families_of
from agentrl.messages import Action, Message
from agentrl.sandbox.base import SandboxLimits
from agentrl.sandboxed.env import SandboxEnv
from agentrl.sandboxed.grading import CASE_LIMITS, Case, passes
from agentrl.sandboxed.task_folder import TaskFolder, function_check
from agentrl.trajectory import Task

NAME = "f"
_FENCE = re.compile(r"```[a-zA-Z0-9]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MODULE = re.compile(rf"^[^\S\n]*(?:def\s+{NAME}\s*\(|{NAME}\s*=)", re.MULTILINE)
_BODY = re.compile(r"\breturn\b")
_MAX_CHARS = 20_000
_MODULE_FILE = "solution.py"


def make_task(rng: np.random.Generator, level: int | None) -> dict[str, Any]:
    """Draw a family and its parameters. The argument's name is not drawn: it would not make another problem."""
    names = families_of(level)
    family = names[int(rng.integers(len(names)))]
    return {"family": family, "params": FAMILIES[family].draw(rng)}


def argument_of(data: Mapping[str, Any]) -> str:
    """The name of the function's argument; it depends on the problem only."""
    mark = zlib.crc32(repr((data["family"], sorted(data["params"].items()))).encode())
    names = FAMILIES[data["family"]].names
    name: str = names[mark % len(names)]
    return name


def question(data: Mapping[str, Any]) -> str:
    """The problem as the model reads it."""
    argument = argument_of(data)
    said = FAMILIES[data["family"]].say(data["params"], argument)
    return f"{NAME}({argument}): {said}."


def as_module(answer: str, argument: str) -> str | None:
    """The module of an answer: a definition of `f` as it is, or a body with a `def` line before it.

    Returns: None for text that is neither; such an answer is wrong and is not run.
    """
    fenced = _FENCE.search(answer)
    code = (fenced.group(1) if fenced else answer).strip("\n")
    if len(code) > _MAX_CHARS or "\0" in code:
        return None
    if _MODULE.search(code):
        return textwrap.dedent(code)
    if _BODY.search(code):
        return f"def {NAME}({argument}):\n" + textwrap.indent(textwrap.dedent(code), "    ")
    return None


def hidden_cases(data: Mapping[str, Any], rng: np.random.Generator) -> list[Case]:
    """Edge cases and random inputs, with what a correct function returns."""
    family, params = FAMILIES[data["family"]], data["params"]
    return [Case((value,), family.expect(params, value)) for value in family.inputs(params, rng)]


@lru_cache(maxsize=4)
def _tasks(level: int | None) -> Tasks:
    sizes = {"train": 3600, "eval": 400} if level is None else {"train": 1200, "eval": 200}
    return Tasks.generate(partial(make_task, level=level), seed=31_001 + (level or 0), **sizes)


@register("agentrl/FunctionSynthesis-v0", max_turns=1)
class FunctionSynthesis(SandboxEnv):
    """Write the function that is described; a one-line body such as `return x + 1` is an answer too.

    Reward: 1 if every hidden test passes, otherwise 0. Held-out problems have parameters that training lacks.

    Args:
        level: 1 (one operation), 2 (one comprehension), 3 (a loop); None mixes all.
        backend, backend_options: as for `SandboxEnv`.
    """

    tasks = _tasks(1)
    rubric = Rubric({"correct": 1.0})
    sandbox_limits: ClassVar[SandboxLimits] = CASE_LIMITS
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, level: int | None = 1, **options: Any) -> None:
        super().__init__(**options)
        if level is not None and level not in LEVELS:
            raise ValueError(f"level must be 1, 2, 3 or None, got {level!r}")
        self.tasks = _tasks(level)

    async def start(self, task: Task) -> str:
        return question(task.data)

    async def score(self, answer: str | None) -> dict[str, float]:
        module = as_module(answer or "", argument_of(self.task.data))
        if module is None:
            return {"correct": 0.0}
        cases = hidden_cases(self.task.data, self.np_random)
        return {"correct": float(await passes(await self.sandbox(), module, NAME, cases))}

    def task_folder(self, task: Task) -> TaskFolder:
        """The task as files, for `agentrl export-tasks`; the answer is then a module in the work folder."""
        argument = argument_of(task.data)
        body = FAMILIES[task.data["family"]].solve(task.data["params"], argument)
        module = as_module(body, argument) or ""
        cases = hidden_cases(task.data, np.random.default_rng(int(task.fingerprint, 16)))
        return TaskFolder(
            f"Write the function {NAME} to the file {_MODULE_FILE}, in Python. {question(task.data)}",
            f"cat > {_MODULE_FILE} <<'END_OF_MODULE'\n{module}\nEND_OF_MODULE",
            function_check(_MODULE_FILE, NAME, cases),
        )

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: do half of what is asked, or be off by one."""
        data = self.task.data
        return Action(text=FAMILIES[data["family"]].slip(data["params"], argument_of(data)))

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Answer with the body of a correct function."""
        data = self.task.data
        return Action(text=FAMILIES[data["family"]].solve(data["params"], argument_of(data)))
