"""Policies without a model: scripts, oracles, doing nothing, chance, and a person."""

from __future__ import annotations

import hashlib
import inspect
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import Policy, SamplingParams
from agentrl.schemas.values import draw_arguments

Answer = Action | str | Mapping[str, Any]
Script = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Answer]
Prompt = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Awaitable[Answer]]


class ScriptedPolicy(Policy):
    """Plays a list of actions in order in every episode, or asks a function.

    Args:
        script: actions (or text, or OpenAI assistant messages), or `script(messages, tools) -> action`.
            The last action of a list is repeated.
    Raises: ValueError if the list is empty.
    """

    name = "scripted"

    def __init__(self, script: Sequence[Answer] | Script) -> None:
        if not callable(script) and not script:
            raise ValueError("a script needs at least one action")
        self.script = script

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        if callable(self.script):
            return Action.of(self.script(messages, tools))
        turn = sum(message.role == "assistant" for message in messages)
        return Action.of(self.script[min(turn, len(self.script) - 1)])


class NullPolicy(ScriptedPolicy):
    """Answers every turn with nothing. An environment must not reward it."""

    name = "null"

    def __init__(self) -> None:
        super().__init__([Action()])


class OraclePolicy(Policy):
    """Asks the environment what to do: `env.oracle(messages)`, or a mixture of its demonstrators.

    Each episode keeps to one demonstrator. The choice depends on the seed and the episode's sampling seed
    (its id if it has none) alone, not on order or concurrency.

    Args:
        mixture: demonstrator methods of the environment and their weights, for example
            `{"oracle": 0.35, "hasty": 0.65}`.
        seed: of the choice.
    Raises: ValueError if the weights are not positive.
    """

    name = "oracle"
    sampling = SamplingParams()  # so that a rollout gives each episode a seed

    def __init__(self, mixture: Mapping[str, float] | None = None, *, seed: int = 0) -> None:
        self.mixture = dict(mixture or {"oracle": 1.0})
        if any(weight < 0 for weight in self.mixture.values()) or sum(self.mixture.values()) <= 0:
            raise ValueError(f"demonstrator weights must be 0 or more and not all 0, got {self.mixture}")
        self.seed = seed
        self._env: Any = None

    def bind(self, env: Any) -> OraclePolicy:
        """A copy of this policy that asks `env`. Raises: ValueError if `env` lacks a demonstrator."""
        missing = [name for name in self.mixture if not callable(getattr(env, name, None))]
        if missing:
            raise ValueError(
                f"{type(env).__name__} has no method {missing[0]}(messages) that demonstrates: "
                "write one that returns the right next action, or choose another policy"
            )
        bound = OraclePolicy(self.mixture, seed=self.seed)
        bound._env, bound.name = env, self.name
        return bound

    def demonstrator_of(self, episode_id: str) -> str:
        """The demonstrator that an episode keeps to."""
        names = sorted(self.mixture)
        cumulative = list(accumulate(self.mixture[name] for name in names))
        draw = _fraction(f"{self.seed}/{episode_id}") * cumulative[-1]
        return names[min(bisect_right(cumulative, draw), len(names) - 1)]

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        if self._env is None:
            raise ValueError("an oracle asks its environment: call bind(env) and use the policy that it returns")
        answer = getattr(self._env, self.demonstrator_of(_stream(episode_id, sampling)))(messages)
        return Action.of(await answer if inspect.isawaitable(answer) else answer)


class RandomPolicy(Policy):
    """Calls random tools with arguments that fit their schemas, and sometimes answers.

    Args:
        answer_rate: probability that a turn is a plain answer; without tools, every turn is one.
        seed: it determines every choice, together with the episode's id and the turn.
    """

    name = "random"
    sampling = SamplingParams()  # so that a rollout gives each episode a seed

    def __init__(self, *, answer_rate: float = 0.2, seed: int = 0) -> None:
        self.answer_rate, self.seed = answer_rate, seed

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        seed = self.seed if sampling is None or sampling.seed is None else sampling.seed
        rng = np.random.default_rng(_digest(f"{seed}/{_stream(episode_id, sampling)}/{len(messages)}"))
        if not tools or rng.random() < self.answer_rate:
            return Action(text=_random_text(rng, messages))
        tool = tools[int(rng.integers(len(tools)))]["function"]
        arguments = draw_arguments(tool.get("parameters") or {}, rng)
        return Action(tool_calls=(ToolCall(tool["name"], arguments),))


class HumanPolicy(Policy):
    """A person decides: `prompt(messages, tools)` shows the conversation and returns what they typed."""

    name = "human"

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        return Action.of(await self.prompt(messages, tools))


_WORDS = ("tea", "blue", "42", "alpha", "select 1", "1 + 1", "the", "north", "")


def _random_text(rng: np.random.Generator, messages: Sequence[Message]) -> str:
    """A word of the conversation or of a fixed list, so that a random answer is sometimes right."""
    words = [word for message in messages[-2:] for word in message.content.split()] or list(_WORDS)
    return words[int(rng.integers(len(words)))]


def _stream(episode_id: str, sampling: SamplingParams | None) -> str:
    """The text that an episode's random choices depend on: its sampling seed if it has one, else its id."""
    return episode_id if sampling is None or sampling.seed is None else str(sampling.seed)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return _digest(text) / 2**64
