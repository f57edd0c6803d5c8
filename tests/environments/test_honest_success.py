"""A policy that tries to have its losing episodes discarded has exactly its honest success, in each environment."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import pytest

from agentrl.bench.evaluate import aevaluate
from agentrl.env import registry
from agentrl.messages import Action, ToolCall
from agentrl.policy.base import Policy
from agentrl.policy.scripted import OraclePolicy

DEEP: Any = "x"
for _ in range(3000):
    DEEP = [DEEP]
JUNK = ("\ud800", "a" * 70_000, DEEP, math.nan, 2**200, "\0", "../" * 400, "é" * 3000, "9" * 5000, None, {"\udfff": 1})
IDS = [f"agentrl/{name}-v0" for name in ("Shop", "Search", "Calculator", "Guess", "FrozenLake", "LoanDesk")]
IN_SANDBOXES = [f"agentrl/{name}-v0" for name in ("BugFix", "Terminal", "DataAnalysis", "FunctionSynthesis")]


class Cheat(Policy):
    """Plays as the oracle in every second task; in the others it sends junk to every tool, and says nothing at last."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self.numbers, self.oracle = numbers, OraclePolicy()

    def bind(self, env: Any) -> Policy:
        number = self.numbers[env.unwrapped.task.id]
        return self.oracle.bind(env) if number % 2 == 0 else Junk(number)

    async def act(self, messages, tools, *, episode_id, sampling=None):
        raise AssertionError("each episode has a policy of its own")


class Junk(Policy):
    def __init__(self, number: int) -> None:
        self.number = number

    async def act(self, messages, tools, *, episode_id, sampling=None):
        if any(message.role == "assistant" for message in messages):
            return Action("\ud800")
        calls = []
        for tool, junk in zip(tools, cycle(JUNK[self.number :] + JUNK[: self.number]), strict=False):
            names = tool["function"]["parameters"]["properties"]
            calls.append(ToolCall(tool["function"]["name"], dict.fromkeys(names, junk), "one id for all"))
        return Action(tool_calls=tuple(calls))


async def check(env_id: str, count: int) -> None:
    env = registry.make(env_id)
    tasks = env.tasks.split("eval")[:count]
    await env.unwrapped.aclose()
    result = await aevaluate(Cheat({task.id: n for n, task in enumerate(tasks)}), env_id, tasks, max_concurrency=4)
    assert [t.status for t in result.trajectories if t.status == "fault"] == []
    assert [t.success for t in result.trajectories] == [n % 2 == 0 for n in range(count)]
    assert {t.labels.attempt for t in result.trajectories} == {0}, "nothing had to be tried again either"


@pytest.mark.parametrize("env_id", IDS)
async def test_a_cheat_has_its_honest_success(env_id: str) -> None:
    await check(env_id, 22)


@pytest.mark.parametrize("env_id", IN_SANDBOXES)
async def test_a_cheat_has_its_honest_success_where_code_runs(env_id: str) -> None:
    await check(env_id, 22)
