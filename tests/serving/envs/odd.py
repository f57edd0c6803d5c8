"""An environment whose tools fail in every way, and which counts what it was asked."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Any

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault, ToolError
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

steps: list[str] = []


class Oddity(Exception):
    """An exception of the author's own."""


class Odd(ToolEnv):
    """Raises what it is told to."""

    tasks = Tasks.of(train=[{"n": 1}, {"n": 2}], eval=[{"n": 3}])

    def start(self, task: Task) -> str:
        self.count = 0
        self.limits_seen = self.limits.max_turns
        return f"task {task.data['n']}"

    @tool
    async def wait(self, seconds: float) -> str:
        """Wait.

        Args:
            seconds: for how long.
        """
        await asyncio.sleep(seconds)
        steps.append("wait")
        return "waited"

    @tool
    def add(self, amount: int) -> str:
        """Count up.

        Args:
            amount: by which.
        """
        self.count += amount
        steps.append("add")
        return str(self.count)

    @tool
    def fail(self, how: str) -> str:
        """Fail.

        Args:
            how: in which way.
        """
        failures: dict[str, Any] = {
            "tool": ToolError("no such thing"),
            "server": EnvFault("the database is gone", who="server", answers=False),
            "key": KeyError("missing"),
            "own": Oddity("odd"),
            "network": ConnectionRefusedError(111, "refused"),
        }
        if how == "exit":
            sys.exit(3)
        raise failures[how]

    def state_key(self) -> str:
        return f"count {self.count}"

    def oracle(self, messages: Any) -> str:
        return "done"

    def score(self, answer: str | None) -> dict[str, float]:
        self.add_info(odd=math.nan, turns=self.limits_seen, count=self.count)
        if answer == "not finite":
            return {"reward": math.inf}
        if answer == "broken":
            raise Oddity("cannot score")
        return {"reward": float(answer == "done")}
