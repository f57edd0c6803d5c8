"""SkyRL-Gym (`skyrl-gym`): a `BaseTextEnv` with a `ToolGroup`, made per episode as SkyRL's generator does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
from skyrl_gym.tools.core import ToolGroup, tool

from overhead_cases import task
from overhead_cases.lockstep import run_lockstep
from overhead_cases.task import Problem, read_transcripts

read = read_transcripts
_ID = "overhead-ledger"
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class LedgerTools(ToolGroup):
    def __init__(self) -> None:
        super().__init__(name="ledger")

    @tool
    def lookup(self, item: str) -> str:
        return task.lookup(item)

    @tool
    def add(self, a: int, b: int) -> str:
        return task.add(a, b)


class Ledger(BaseTextEnv):
    """Text in, text out."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()
        assert extras is not None
        self.answer = extras["reward_spec"]["ground_truth"]
        self.max_turns = extras["max_turns"]
        self.init_tool_groups([LedgerTools()])
        self.chat_history: list[dict[str, str]] = []

    def step(self, action: str) -> BaseTextEnvStepOutput:
        self.turns += 1
        self.chat_history.append({"role": "assistant", "content": action})
        if "<answer>" in action or self.turns >= self.max_turns:
            reward = 1.0 if action == f"<answer>{self.answer}</answer>" else 0.0
            return BaseTextEnvStepOutput(observations=[], reward=reward, done=True, metadata={})
        found = _CALL.search(action)
        assert found is not None
        call = json.loads(found.group(1))
        name, arguments = call["name"], list(call["arguments"].values())
        observation = {"role": "user", "content": self._execute_tool("ledger", name, arguments)}
        self.chat_history.append(observation)
        metadata = {"tool_group": "ledger", "tool_name": name, "tool_input": arguments}
        return BaseTextEnvStepOutput(observations=[observation], reward=0.0, done=False, metadata=metadata)


skyrl_gym.register(id=_ID, entry_point=Ledger)


def run(problems: Sequence[Problem], path: Path) -> None:
    run_lockstep(problems, path, _make, _step, "texts")


def _make(problem: Problem) -> Any:
    extras = {"reward_spec": {"ground_truth": problem.answer}, "max_turns": 10}
    env = skyrl_gym.make(_ID, env_config=None, extras=extras)
    env.init([{"role": "user", "content": problem.prompt}])
    return env


def _step(env: Any, action: str) -> tuple[str, float, bool]:
    output = env.step(action)
    observations = output["observations"]
    return observations[0]["content"] if observations else "", output["reward"], output["done"]
