"""The Llama 3 format: bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;`."""

from __future__ import annotations

import json
import re

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import read_call

_LLAMA3_TAG = "<|python_tag|>"
_LLAMA3_START = re.compile(r'\s*\{\s*"(?:type|name)"\s*:')


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
    return said.strip(), [read_call(part, index, "parameters") for index, part in enumerate(_json_parts(body))]


def _json_parts(body: str) -> list[str]:
    """Split `{...}; {...}` at the semicolons between objects; the rest of a broken text is one part."""
    parts: list[str] = []
    rest, decoder = body.strip(), json.JSONDecoder()
    while rest:
        try:
            _, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return [*parts, rest]
        parts.append(rest[:end])
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    return parts or [""]
