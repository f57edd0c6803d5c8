"""The Hermes format: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

from __future__ import annotations

import re

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import read_call

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)


class HermesFormat(ChatFormat):
    """Calls as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

    name = "hermes"

    @classmethod
    def shows(cls, template: str) -> bool:
        return "<tool_call>" in template

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        return hermes_calls(text)


def hermes_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Read `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen).

    Returns: the text outside the calls, stripped, and the calls. A call whose closing tag is missing
    counts if its JSON is whole.
    """
    bodies = _HERMES.findall(text)
    calls = [read_call(body, index, "arguments") for index, body in enumerate(bodies)]
    return _HERMES.sub("", text).strip() if bodies else text.strip(), calls
