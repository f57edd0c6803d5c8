"""An environment with tools of every kind, some of which wait."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from agentrl.env.base import Limits
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ToolError
from agentrl.messages import Action, ToolCall
from agentrl.tool_schema import Tool, tool


def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


class Desk(ToolEnv):
    """Tools of every kind, none of which waits."""

    tasks = Tasks.of(train=[{"goal": 3}], eval=[{"goal": 4}])
    limits = Limits(max_turns=5)
    rubric = Rubric({"right": 1.0, "neat": 0.25})
    system_prompt = "Be brief."
    extra_tools = (Tool.of(double),)

    def start(self, task):
        self.log: list[str] = []
        return f"Reach {task.data['goal']}."

    @tool
    def add(self, n: int = 1) -> dict[str, int]:
        """Add to the log."""
        self.log.append(f"add {n}")
        self.add_reward("neat", 0.5)
        return {"n": n}

    @tool
    def refuse(self) -> None:
        """Always refuse."""
        raise ToolError("not today")

    @tool
    def crash(self) -> None:
        """Crash."""
        raise KeyError("drawer")

    @tool
    def leave(self) -> None:
        """End the episode."""
        self.terminate()

    def respond(self, text):
        return "Go on." if text == "wait" else None

    def score(self, answer):
        self.success = answer == "3"
        return {"right": float(self.success)}


class Waiting(Desk):
    """Tools that wait."""

    tool_timeout_s = 0.2

    @tool
    async def nap(self, seconds: float = 0.01) -> str:
        """Sleep."""
        self.log.append("in")
        try:
            await asyncio.sleep(seconds)
        finally:
            self.log.append("out")
        return "slept"

    @tool(parallel=True)
    async def read(self, seconds: float = 0.0) -> str:
        """Sleep beside others."""
        return await self.nap(seconds)

    @tool(parallel=True)
    async def crash_later(self) -> None:
        """Crash beside others."""
        raise KeyError("drawer")

    @tool(blocking=True)
    def block(self, seconds: float = 0.01) -> str:
        """Sleep in a thread."""
        time.sleep(seconds)
        return threading.current_thread().name

    @tool(timeout_s=0.05)
    async def quick(self) -> None:
        """Sleep too long for its own limit."""
        await asyncio.sleep(30)

    @tool
    async def own_timeout(self) -> None:
        """Time out by itself."""
        raise TimeoutError("the server's own")


def calls(*named: tuple[str, dict[str, Any]]) -> Action:
    return Action(tool_calls=tuple(ToolCall(name, given, f"c{i}") for i, (name, given) in enumerate(named)))


def begun(env_class: type[ToolEnv] = Desk, **limits: Any) -> ToolEnv:
    env = env_class()
    if limits:
        env.limits = Limits(**limits)
    env.reset(seed=0, options={"split": "train"})
    return env
