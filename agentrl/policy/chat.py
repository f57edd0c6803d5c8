"""The policies behind a server, one for each API: OpenAI's Chat Completions and Responses, and Anthropic's Messages.

Owns their names alone. What they share is `agentrl.policy.remote.policy`, what tells them apart are the dialects.
"""

from __future__ import annotations

from typing import Any

from agentrl.policy.remote.chat_completions import ChatCompletions
from agentrl.policy.remote.messages_api import MessagesApi
from agentrl.policy.remote.options import ChatOptions
from agentrl.policy.remote.policy import DEFAULT_SAMPLING, ServerPolicy
from agentrl.policy.remote.responses_api import ResponsesApi

__all__ = ["DEFAULT_SAMPLING", "AnthropicPolicy", "ChatOptions", "ChatPolicy", "ResponsesPolicy", "ServerPolicy"]


class ChatPolicy(ServerPolicy):
    """Asks any server with OpenAI's `/chat/completions`; arguments as `ServerPolicy`, which also takes a dialect."""

    def __init__(self, model: str, **more: Any) -> None:
        super().__init__(model, ChatCompletions(), **more)


class ResponsesPolicy(ServerPolicy):
    """Asks a server with OpenAI's `/responses`, which keeps nothing: each request holds the whole conversation."""

    def __init__(self, model: str, **more: Any) -> None:
        super().__init__(model, ResponsesApi(), **more)


class AnthropicPolicy(ServerPolicy):
    """Asks a server with Anthropic's `/v1/messages`."""

    def __init__(self, model: str, **more: Any) -> None:
        super().__init__(model, MessagesApi(), **more)
