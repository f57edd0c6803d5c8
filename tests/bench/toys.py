"""A small environment and policies with known scores, for the tests of this folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, PolicyFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task, Trajectory


class Adder(ToolEnv):
    """Add two numbers with a tool, then say the sum."""

    tasks = Tasks.of(train=[{"a": 1, "b": 1}], eval=[{"a": n, "b": 10 * n} for n in range(8)])
    limits = Limits(max_turns=4)

    async def start(self, task: Task) -> str:
        return f"{task.data['a']}+{task.data['b']}"

    @tool
    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async def score(self, answer: str | None) -> float:
        return float(answer == str(self.task.data["a"] + self.task.data["b"]))

    def oracle(self, messages: Sequence[Message]) -> Action | str:
        if messages[-1].role == "tool":
            return messages[-1].content
        return call("add", a=self.task.data["a"], b=self.task.data["b"])


class Breaks(Adder):
    """The server behind it goes down, and stays down, at the sums of the last two tasks."""

    down = False

    async def score(self, answer: str | None) -> float:
        if answer in ("66", "77"):
            type(self).down = True
        if self.down:
            raise EnvFault("the ledger is down", who="server", answers=False)
        return await super().score(answer)


def breaks() -> type[Breaks]:
    """The environment with a server of its own, which is up."""
    return type("Breaks", (Breaks,), {"__doc__": Breaks.__doc__})


class Some(Policy):
    """Right on tasks whose first number is below `right`; a fault on the numbers in `broken`."""

    def __init__(self, right: int = 99, broken: Sequence[int] = (), wait_s: float = 0.0) -> None:
        self.right, self.broken, self.wait_s = right, broken, wait_s
        self.name = "some"
        self.asked: list[str] = []
        self.sampled: list[SamplingParams | None] = []

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        a, b = map(int, messages[0].content.split("+"))
        await asyncio.sleep(self.wait_s)
        if messages[-1].role == "user":
            self.asked.append(messages[0].content)
            self.sampled.append(sampling)
        if a in self.broken:
            raise PolicyFault("the server is gone")
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        if messages[-1].role == "user":
            return Action(tool_calls=call("add", a=a, b=b).tool_calls, usage=usage)
        return Action(messages[-1].content if a < self.right else "0", usage=usage)


def recorded(out: Path) -> list[Trajectory]:
    return list(TrajectoryStore(out / "trajectories.jsonl"))


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text()))
