"""Gymnasium: a hand-written `gymnasium.Env` with text spaces, made with the default wrappers."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from overhead_cases.lockstep import run_lockstep
from overhead_cases.task import CONCURRENCY, TOOLS, Problem, read_transcripts

read = read_transcripts
_ID = "overhead/Ledger-v0"


class Ledger(gymnasium.Env[str, str]):
    """Actions are a call as JSON, or the answer."""

    observation_space = Text(200, charset=string.printable)
    action_space = Text(200, charset=string.printable)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        assert options is not None
        self.problem: Problem = options["problem"]
        return self.problem.prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if not action.startswith("{"):
            return "", 1.0 if action == self.problem.answer else 0.0, True, False, {}
        call = json.loads(action)
        return TOOLS[call["name"]](**call["arguments"]), 0.0, False, False, {}


gymnasium.register(_ID, entry_point=Ledger, max_episode_steps=10)
_idle: list[Any] = []


def run(problems: Sequence[Problem], path: Path) -> None:
    while len(_idle) < CONCURRENCY:
        _idle.append(gymnasium.make(_ID))
    run_lockstep(problems, path, _make, _step, "calls")


def _make(problem: Problem) -> Any:
    env = _idle[problem.id % CONCURRENCY]
    env.reset(seed=problem.id, options={"problem": problem})
    return env


def _step(env: Any, action: str) -> tuple[str, float, bool]:
    observation, reward, terminated, truncated, _ = env.step(action)
    return observation, reward, terminated or truncated
