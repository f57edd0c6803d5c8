"""File and text tasks in a shell, scored by the files at the end. `terminal_families` owns the problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.env.toolbox import Offered
from agentrl.environments.terminal_families import LEVELS, Problem, families_of, problem
from agentrl.messages import Action, Message
from agentrl.sandbox.base import Sandbox, SandboxError, SandboxLimits
from agentrl.sandboxed.env import SandboxEnv
from agentrl.sandboxed.task_folder import TaskFolder, files_check
from agentrl.tools.shell import shell_tool
from agentrl.trajectory import Task

_MAX_BYTES = 1 << 16


def make_task(rng: np.random.Generator, level: int | None = None) -> dict[str, Any]:
    """Draw a family of a level and the seed of a problem."""
    names = families_of(level)
    return {"family": names[int(rng.integers(len(names)))], "seed": int(rng.integers(2**31))}


@lru_cache(maxsize=256)
def _problem(family: str, seed: int) -> Problem:
    return problem(family, seed)


@lru_cache(maxsize=4)
def _tasks(level: int | None) -> Tasks:
    return Tasks.generate(partial(make_task, level=level), seed=41_001 + (level or 0), train=2000, eval=200)


async def reached(sandbox: Sandbox, wanted: Mapping[str, str], gone: Sequence[str]) -> bool:
    """Whether the work folder holds what is wanted. The host reads it: no link is followed, nothing is executed.

    A folder that cannot be listed, such as one with too many levels, does not hold it.
    """
    try:
        there = {entry.path: entry for entry in await sandbox.entries()}
    except SandboxError:
        return False
    if any(path in there for path in gone):
        return False
    for path, text in wanted.items():
        if path not in there or there[path].kind != "file" or there[path].size_bytes > _MAX_BYTES:
            return False
        try:
            content = await sandbox.read(path, max_bytes=_MAX_BYTES)
        except SandboxError:
            return False
        if content.decode("utf-8", "replace").rstrip() != text.rstrip():
            return False
    return True


@register("agentrl/Terminal-v0", max_turns=10)
class Terminal(SandboxEnv):
    """Do a task in a shell; the files at the end count, the answer's text does not.

    Reward: 1 if every wanted file exists with its content and every file to be removed is gone, otherwise 0.

    Args:
        level: 1 (one short command), 2 (one long command), 3 (several turns); None mixes all.
        backend, backend_options: as for `SandboxEnv`.
    """

    tasks = _tasks(None)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)
    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits(wall_s=10.0, cpu_s=5.0, output_bytes=64 * 1024)
    extra_tools: Sequence[Offered] = (shell_tool(max_chars=2000),)

    def __init__(self, *, level: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if level is not None and level not in LEVELS:
            raise ValueError(f"level must be 1, 2, 3 or None, got {level!r}")
        self.tasks = _tasks(level)

    async def start(self, task: Task) -> str:
        self.put_files({path: text.encode() for path, text in self._problem().files.items()})
        return f"{self._problem().question} Say done at the end."

    async def score(self, answer: str | None) -> dict[str, float]:
        if not self.tool_stats:
            return {"correct": 0.0}
        asked = self._problem()
        return {"correct": float(await reached(await self.sandbox(), asked.wanted, asked.gone))}

    def task_folder(self, task: Task) -> TaskFolder:
        """The task as files, for `agentrl export-tasks`."""
        asked = _problem(task.data["family"], task.data["seed"])
        return TaskFolder(
            asked.question,
            "\n".join(f"(\n{command}\n)" for command in asked.commands),
            files_check(asked.wanted, asked.gone, max_bytes=_MAX_BYTES),
            {path: text.encode() for path, text in asked.files.items()},
        )

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Run the commands of a solution, one a turn."""
        return self._demonstrate(messages, self._problem().commands)

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: do half of what is asked, such as sorting lines without leaving out the repeated ones."""
        asked = self._problem()
        return self._demonstrate(messages, asked.slip or asked.commands)

    def _demonstrate(self, messages: Sequence[Message], commands: Sequence[str]) -> Action:
        made = sum(message.role == "tool" for message in messages)
        return call("shell", command=commands[made]) if made < len(commands) else Action(text="done")

    def _problem(self) -> Problem:
        return _problem(self.task.data["family"], self.task.data["seed"])
