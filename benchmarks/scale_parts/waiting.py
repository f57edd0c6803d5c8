"""The environment of `benchmarks/scale_simulation.py`: its tools wait, as remote ones do, without using a core."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from agentrl.env.base import StepResult
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.tool_schema import tool
from agentrl.trajectory import Task


class Waiting(ToolEnv):
    """Look, then answer. Each turn waits without using a core, as for a remote tool, and the reward is drawn.

    Draws differ between the episodes of a group, which share their seed: here times count, and no run is repeated.

    Args: wait_s: mean of a turn's wait, which is drawn between half and one and a half times as long.
    """

    tasks = Tasks.of(train=[{"n": n} for n in range(64)], eval=[{"n": n} for n in range(64, 72)])

    def __init__(self, wait_s: float = 0.0) -> None:
        super().__init__()
        self._wait_s = wait_s

    def start(self, task: Task) -> str:
        return f"Number {task.data['n']}: yes or no?"

    @tool
    def look(self) -> str:
        """Look at the number."""
        return f"it is {self.task.data['n']}"

    async def astep(self, action: Any) -> StepResult:
        if self._wait_s:
            await asyncio.sleep(self._wait_s * random.uniform(0.5, 1.5))
        observation, _, terminated, truncated, info = await super().astep(action)
        return observation, float(random.random() < 0.5), terminated, truncated, info

    def score(self, answer: str | None) -> float:
        return 0.0

    def yes(self, messages: Any) -> Any:
        return "yes" if messages[-1].role == "tool" else call("look")
