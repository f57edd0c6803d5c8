"""A policy that is one async function of yours: conversation and tools in, the next turn out. Owns the bridge alone."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from agentrl.errors import ConfigError, PolicyError
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams

Agent = Callable[[list[dict[str, Any]], list[dict[str, Any]]], Awaitable[Action | str | Mapping[str, Any]]]


class FunctionPolicy(Policy):
    """Awaits a function for each turn.

    Args:
        function: `async def agent(messages, tools)`. Both are lists of dictionaries in OpenAI's chat form. It returns
            the next turn: a text, an assistant message in the same form, or an `Action`.
        name: of the policy in records.
    Raises: ConfigError if it does not take two arguments.
    """

    def __init__(self, function: Agent, name: str = Policy.name) -> None:
        try:
            inspect.signature(function).bind([], [])
        except TypeError as error:
            raise ConfigError(f"the agent {name!r} is called as agent(messages, tools): {error}") from None
        self.function, self.name = function, name
        self._told: dict[str, list[tuple[Message, dict[str, Any]]]] = {}

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        """What the function returns. Raises: PolicyError if that is no turn, and what the function raises."""
        told = self._told.setdefault(episode_id, [])
        same = takewhile(lambda pair: pair[0][0] is pair[1], zip(told, messages, strict=False))
        del told[sum(1 for _ in same) :]
        told += [(message, message.to_openai()) for message in messages[len(told) :]]
        turn = await self.function([_copy(shown) for _, shown in told], [dict(tool) for tool in tools])
        try:
            return Action.of(turn)
        except (TypeError, ValueError) as error:
            raise PolicyError(f"what the agent {self.name!r} returned is no turn: {error}") from None

    async def release(self, episode_id: str) -> None:
        self._told.pop(episode_id, None)


def _copy(message: dict[str, Any]) -> dict[str, Any]:
    """The message with dictionaries and lists of its own, which the function may change."""
    if "tool_calls" not in message:
        return dict(message)
    calls = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}
