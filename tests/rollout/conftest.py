"""Two worlds and a player for the rollout tests: nothing in them knows how a rollout works."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.env.base import Env, Limits
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import Policy, SamplingParams
from agentrl.tool_schema import tool
from agentrl.trajectory import Task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The place of a store in the folder of a run."""
    return tmp_path / "run" / "trajectories.jsonl"


class Ledger(ToolEnv):
    """Draw random entries and sum them: every kind of outcome depends on the seed and on history."""

    tasks = Tasks.of(train=[{"low": n} for n in range(50)], eval=[{"low": 100 + n} for n in range(10)])
    rubric = Rubric({"right": 1.0, "draws": 0.01})
    limits = Limits(max_turns=6)

    async def start(self, task: Task) -> str:
        self.entries: list[int] = []
        self.mood = float(self.np_random.random())
        return f"Sum the entries from {task.data['low']}. Mood {self.mood:.6f}."

    @tool
    def draw(self, span: int = 10) -> dict[str, int]:
        """Draw an entry.

        Args:
            span: how far above the task's low it may lie
        """
        self.entries.append(int(self.np_random.integers(self.task.data["low"], self.task.data["low"] + abs(span) + 1)))
        self.add_reward("draws", 1)
        return {"entry": self.entries[-1], "of": len(self.entries)}

    @tool
    def total(self) -> int:
        """The sum so far."""
        return sum(self.entries)

    async def score(self, answer: str | None) -> dict[str, float]:
        self.success = answer == str(sum(self.entries))
        return {"right": float(self.success)}

    def state_key(self) -> str:
        return ",".join(map(str, self.entries))


class SlowLedger(Ledger):
    """The same, with a tool that really waits, so that episodes interleave in the loop."""

    @tool
    async def draw(self, span: int = 10) -> dict[str, int]:
        """Draw an entry.

        Args:
            span: how far above the task's low it may lie
        """
        await asyncio.sleep(0.0005)
        entry = int(self.np_random.integers(self.task.data["low"], self.task.data["low"] + abs(span) + 1))
        await asyncio.sleep(0)
        self.entries.append(entry)
        self.add_reward("draws", 1)
        return {"entry": entry, "of": len(self.entries)}


class Walker(Policy):
    """Plays at random from the episode's sampling seed alone: right, wrong, parallel and broken calls, answers."""

    name = "walker"

    def __init__(self) -> None:
        self.sampling = SamplingParams()
        self.released: list[str] = []
        self.seeds: list[int] = []

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        assert sampling is not None
        assert sampling.seed is not None
        self.seeds.append(sampling.seed)
        rng = np.random.default_rng([sampling.seed, len(messages)])
        choices = (
            (ToolCall("draw", {"span": int(rng.integers(1, 100))}),),
            (ToolCall("draw", {}, "a"), ToolCall("total", {}, "b"), ToolCall("draw", {"span": 3}, "c")),
            (ToolCall("draw", {"span": "wide"}),),
            (ToolCall("drew", {}), ToolCall("draw", {}, "x", "no closing brace")),
            (ToolCall("total", {}),),
            (),
        )
        calls = choices[rng.choice(6, p=[0.35, 0.2, 0.1, 0.1, 0.15, 0.1])]
        text = "" if calls else str(rng.integers(1000))
        ids = tuple(int(i) for i in rng.integers(0, 512, size=5))
        prompt = tuple(range(len(messages)))
        return Action(text, calls, prompt_ids=prompt, token_ids=ids, logprobs=tuple(map(float, -rng.random(5))))

    async def release(self, episode_id: str) -> None:
        self.released.append(episode_id)


@pytest.fixture
def ledger() -> type[Env]:
    return Ledger


@pytest.fixture
def slow_ledger() -> type[Env]:
    return SlowLedger


@pytest.fixture
def walker() -> Walker:
    return Walker()
