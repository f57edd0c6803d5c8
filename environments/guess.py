"""Number guessing without tools: the environment answers each guess with "higher" or "lower".

Halving always finds the number in time. The demonstrator `hasty` walks number by number and finds the near ones only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.trajectory import Task

DEFAULT_SIZE = 60
SPARE_GUESSES = 2
SHAPING_WEIGHT = 0.2
_GUESS = re.compile(r"\s*(\d{1,6})\s*(?:\.\s*)?")


def make_task(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Draw a range of about `size` three-digit numbers; the secret is never one of its ends."""
    span = int(rng.integers(max(3, size // 2), size + 1))
    low = int(rng.integers(100, 1000 - span))
    secret = int(rng.integers(low + 1, low + span - 1))
    return {"low": low, "high": low + span - 1, "secret": secret}


@lru_cache(maxsize=8)
def _tasks(size: int) -> Tasks:
    return Tasks.generate(partial(make_task, size=size), seed=7_001 + size, train=2000, eval=200)


@register("agentrl/Guess-v0", max_turns=12)
class Guess(ToolEnv):
    """Find a number by guessing, in a limited number of guesses; each is answered with "higher" or "lower".

    Reward: 1 if the number was found. With `shaped=True` each guess also earns its share of the information about
    the number; these shares add up to 0.2 in an episode.

    Args:
        size: the largest number of numbers in a range, 5 to 500. Halving needs log2(size) guesses; 2 more are allowed.
        shaped: also give reward for information.
    """

    tasks = _tasks(DEFAULT_SIZE)
    rubric = Rubric({"correct": 1.0, "narrowed": SHAPING_WEIGHT})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, size: int = DEFAULT_SIZE, shaped: bool = False, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if not 5 <= size <= 500:
            raise ValueError(f"size must be 5 to 500 numbers, got {size}")
        self.tasks = _tasks(size)
        self.shaped = shaped

    async def start(self, task: Task) -> str:
        self.low, self.high = task.data["low"], task.data["high"]
        self.left = math.ceil(math.log2(self.high - self.low + 2)) + SPARE_GUESSES
        return f"Guess my number, {self.low} to {self.high}, {self.left} tries."

    async def respond(self, text: str) -> str | None:
        guess = _number(text)
        if guess == self.task.data["secret"]:
            return None
        self.left -= 1
        if self.left == 0:
            self.terminate()
        if guess is None:
            return "Say a number."
        higher = self.task.data["secret"] > guess
        self._narrow(guess, higher)
        return "higher" if higher else "lower"

    async def score(self, answer: str | None) -> dict[str, float]:
        found = answer is not None and _number(answer) == self.task.data["secret"]
        if found:
            self._narrow_to(self.task.data["secret"], self.task.data["secret"])
        self.success = found
        return {"correct": float(found)}

    def _narrow(self, guess: int, higher: bool) -> None:
        if higher:
            self._narrow_to(max(self.low, guess + 1), self.high)
        else:
            self._narrow_to(self.low, min(self.high, guess - 1))

    def _narrow_to(self, low: int, high: int) -> None:
        """Keep the numbers that are still possible. With shaping, the reward is the share of bits gained."""
        if self.shaped:
            all_bits = math.log2(self.task.data["high"] - self.task.data["low"] + 1)
            gained = math.log2((self.high - self.low + 1) / (high - low + 1))
            self.add_reward("narrowed", gained / all_bits)
        self.low, self.high = low, high

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Guess the middle of the numbers that are left."""
        return Action(text=str((self.low + self.high) // 2))

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: walk number by number from the first guess, the middle."""
        guesses = [message.content for message in messages if message.role == "assistant"]
        if not guesses:
            return self.oracle(messages)
        step = 1 if messages[-1].content == "higher" else -1
        return Action(text=str(int(guesses[-1]) + step))

    def state_key(self) -> str:
        return f"{self.low}-{self.high}:{self.left}"


def _number(text: str) -> int | None:
    match = _GUESS.fullmatch(text)
    return int(match.group(1)) if match else None
