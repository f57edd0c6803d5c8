"""The Llama 3 format: bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;`."""

from __future__ import annotations

import re

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import call_of, read_call
from agentrl.policy.strict_json import read_json_at

_LLAMA3_TAG = "<|python_tag|>"
_LLAMA3_START = re.compile(r'\s*\{\s*"(?:type|name)"\s*:')
_BETWEEN = re.compile(r"\s*;?\s*")


class Llama3Format(ChatFormat):
    """Calls as bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;` (Llama 3)."""

    name = "llama3_json"

    @classmethod
    def shows(cls, template: str) -> bool:
        return "<|start_header_id|>" in template or _LLAMA3_TAG in template

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        return llama3_calls(text)


def llama3_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Read bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;` (Llama 3).

    Returns: the text before `<|python_tag|>` (empty without it), and the calls; text that does not
    begin like a call is an answer.
    """
    said, tagged, body = text.partition(_LLAMA3_TAG)
    if not tagged:
        said, body = "", text
        if not _LLAMA3_START.match(body):
            return text.strip(), []
    return said.strip(), _calls(body.strip())


def _calls(body: str) -> list[ToolCall]:
    """The calls in `{...}; {...}`; from a call on that cannot be read, the rest of the text is one call."""
    calls: list[ToolCall] = []
    place = 0
    while place < len(body) or not calls:
        try:
            value, end = read_json_at(body, place)
        except ValueError:
            return [*calls, read_call(body[place:], len(calls), "parameters")]
        calls.append(call_of(value, len(calls), "parameters"))
        found = _BETWEEN.match(body, end)
        place = end if found is None else found.end()
    return calls
