"""Formats of fixed syntax: `hermes` (Hermes, Qwen), and `generic` for templates that know no tools."""

from __future__ import annotations

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.json_calls import JsonCalls

HERMES = JsonCalls("<tool_call>", "</tool_call>")


class HermesFormat(ChatFormat):
    """Calls as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

    name = "hermes"

    @classmethod
    def shows(cls, template: str) -> bool:
        return HERMES.opener in template

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        return HERMES.read(text)


class GenericFormat(HermesFormat):
    """Calls as Hermes writes them, for any template: it is given plain text alone.

    The tools are described in the system prompt, calls are written into the assistant's text, and their results come
    as messages of the user.
    """

    name = "generic"
    uses_template_tools = False

    @classmethod
    def shows(cls, template: str) -> bool:
        return False
