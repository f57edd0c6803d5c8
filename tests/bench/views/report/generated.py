"""Benchmarks of any size for the tests of the page: agents that write much, fail in every way, and mean ill."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

HOSTILE = '</script><img src="http://example.com/x" onerror="alert(1)">\x1b[2J\u202e& <b>'


class Ledger(ToolEnv):
    """Book an amount, then say the balance."""

    tasks = Tasks(
        lambda: {"eval": [Task(f"eval-{n}", "eval", {"n": n, "family": f"family {n % 5}"}) for n in range(250)]}
    )
    limits = Limits(max_turns=3)

    def start(self, task: Task) -> str:
        self.balance = 100
        return f"Book {task.data['n']}, then say the balance."

    @tool
    def book(self, amount: int, note: str = "") -> str:
        """Add an amount to the balance."""
        if amount == 13:
            raise EnvFault("the ledger is down", who="server")
        self.balance += amount
        return f"booked: {note[:40]}"

    def state_key(self) -> str:
        return f"balance={self.balance}, currency=EUR"

    def score(self, answer: str | None) -> Mapping[str, float] | float:
        return 1.0 if answer == str(self.balance) else 0.25 * (answer is not None and answer.isdecimal())


class Writer(Policy):
    """Right on most tasks, with `length` characters of noise in each turn; some trials never end."""

    def __init__(self, name: str, skill: float, length: int = 60) -> None:
        self.name, self.skill, self.length = name, skill, length

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        name = episode_id.rpartition("#")[0]  # what follows counts the episodes of all tests so far
        rng = random.Random(f"{name} {len(messages)} {self.name}")
        noise = rng.randbytes(self.length // 2).hex()
        amount = int(messages[0].content.split()[1].rstrip(","))
        usage = {"prompt_tokens": 50, "completion_tokens": 10 + self.length // 4}
        if len(messages) == 1 or rng.random() < 0.15:
            note = HOSTILE if amount == 7 else noise
            return Action(noise, call("book", amount=amount, note=note).tool_calls, usage=usage, reasoning=noise[:50])
        if rng.random() < self.skill:
            return Action(str(100 + amount), usage=usage)
        return Action(rng.choice(["1", HOSTILE, "", noise]), usage=usage)
