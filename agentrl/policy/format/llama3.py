"""The Llama 3 format: bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;`."""

from __future__ import annotations

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.json_calls import BareCalls

LLAMA3 = BareCalls()


class Llama3Format(ChatFormat):
    """Calls as bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;` (Llama 3)."""

    name = "llama3_json"

    @classmethod
    def shows(cls, template: str) -> bool:
        return "<|start_header_id|>" in template or "<|python_tag|>" in template

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        return LLAMA3.read(text)

    def write_call(self, call: ToolCall) -> str:
        return LLAMA3.write(call)
