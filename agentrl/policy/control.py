"""The control: a conversation that no model had a hand in, of the form that conversations with tools have.

Who refuses a conversation and accepts this one refuses what the model said. Who refuses both is broken, or was set up
wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.messages import Message, ToolCall


def control_messages(tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A short conversation with a call of the first tool and its result, or without calls where there are no tools."""
    start = Message("user", "Say hello.")
    if not tools:
        return [start, Message("assistant", "Hello."), Message("user", "Again, please.")]
    name = tool_name(tools[0])
    call = ToolCall(name, {}, "call_0")
    return [start, Message("assistant", "", (call,)), Message("tool", "done", tool_call_id="call_0", name=name)]


def has_spoken(messages: Sequence[Message]) -> bool:
    """Whether a conversation holds a model's words."""
    return any(message.role == "assistant" for message in messages)


def tool_name(tool: Mapping[str, Any]) -> str:
    """The name in an OpenAI tool definition; empty if there is none."""
    function = tool.get("function")
    return str(function.get("name") or "") if isinstance(function, Mapping) else ""
