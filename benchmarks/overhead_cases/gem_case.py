"""GEM (`gem-llm`): a `gem.Env`, two `BaseTool`s and the `ToolEnvWrapper` that tries them in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gem
from gem.tools.base_tool import BaseTool
from gem.tools.tool_env_wrapper import ToolEnvWrapper

from overhead_cases.lockstep import run_lockstep
from overhead_cases.task import CONCURRENCY, TOOLS, Problem, read_transcripts

read = read_transcripts
_ID = "overhead:Ledger-v0"
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class FunctionTool(BaseTool):
    """A tool that takes `<tool_call>{"name": ..., "arguments": ...}</tool_call>`."""

    tool_type = "function"

    def __init__(self, name: str, function: Callable[..., str]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def instruction_string(self) -> str:
        return f"{self.name}: {self.function.__doc__}"

    def execute_action(self, action: str) -> tuple[bool, bool, str, str]:
        found = _CALL.search(action)
        if found is None:
            return False, True, "", action
        call = json.loads(found.group(1))
        if call["name"] != self.name:
            return False, True, "", action
        return True, False, self.function(**call["arguments"]), action[: found.end()]


class Ledger(gem.Env):
    """Takes the answer; the wrapper takes the calls."""

    problem: Problem

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed)
        return self.problem.prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        found = _ANSWER.search(action)
        reward = 1.0 if found is not None and found.group(1) == self.problem.answer else 0.0
        return "", reward, True, False, {}


gem.register(_ID, Ledger)
_idle: list[Any] = []


def run(problems: Sequence[Problem], path: Path) -> None:
    while len(_idle) < CONCURRENCY:
        tools = [FunctionTool(name, function) for name, function in TOOLS.items()]
        _idle.append(ToolEnvWrapper(gem.make(_ID), tools=tools))
    run_lockstep(problems, path, _make, _step, "texts")


def _make(problem: Problem) -> Any:
    env = _idle[problem.id % CONCURRENCY]
    env.env.problem = problem
    env.reset()
    return env


def _step(env: Any, action: str) -> tuple[str, float, bool]:
    observation, reward, terminated, truncated, _ = env.step(action)
    return observation, reward, terminated or truncated
