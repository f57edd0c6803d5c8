"""A policy that is one async function of yours: conversation and tools in, the next turn out. Owns the bridge alone."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentrl.errors import ConfigError
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

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        """What the function returns. Raises: TypeError for something else than a turn, and what the function raises."""
        turn = await self.function([message.to_openai() for message in messages], [dict(tool) for tool in tools])
        return Action.of(turn)
