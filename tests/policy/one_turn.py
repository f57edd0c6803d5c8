"""One turn of a chat policy against a server of the tests."""

from __future__ import annotations

from typing import Any

from agentrl.messages import Action, Message
from agentrl.policy.chat import ChatPolicy
from tests.policy.chat_server import ChatServer

QUESTION = (Message("user", "1+2"),)
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},)


async def ask(
    server: ChatServer, messages: tuple[Message, ...] = QUESTION, tools: Any = (), sampling: Any = None, **options: Any
) -> Action:
    """One turn with a policy of its own."""
    async with ChatPolicy("bot", base_url=server.url, **options) as policy:
        return await policy.act(messages, tools, episode_id="e", sampling=sampling)
