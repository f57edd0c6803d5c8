"""The Hermes format: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

from __future__ import annotations

import json
import re

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import read_call

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_SPACE = re.compile(r"\s*")
_UNTIL_TAG = re.compile(r"(.*?)(</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_decoder = json.JSONDecoder()


class HermesFormat(ChatFormat):
    """Calls as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

    name = "hermes"

    @classmethod
    def shows(cls, template: str) -> bool:
        return _OPEN in template

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        return hermes_calls(text)


def hermes_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Read `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen).

    A tag inside a string of a call's JSON is text of that string. A call whose closing tag is missing counts if its
    JSON is whole.

    Returns: the text outside the calls, stripped, and the calls.
    """
    said: list[str] = []
    calls: list[ToolCall] = []
    place = 0
    while (start := text.find(_OPEN, place)) >= 0:
        said.append(text[place:start])
        body, place = _body(text, start + len(_OPEN))
        calls.append(read_call(body, len(calls), "arguments"))
    said.append(text[place:])
    return "".join(said).strip(), calls


def _body(text: str, start: int) -> tuple[str, int]:
    """The text of a call that begins at `start`, and the place behind it and its closing tag."""
    try:
        _, end = _decoder.raw_decode(text, _skip_space(text, start))
    except (ValueError, RecursionError):
        end = -1
    after = _skip_space(text, end) if end >= 0 else -1
    if after >= 0 and text.startswith(_CLOSE, after):
        return text[start:end], after + len(_CLOSE)
    if after >= 0 and (after == len(text) or text.startswith(_OPEN, after)):
        return text[start:end], after
    found = _UNTIL_TAG.match(text, start)
    assert found is not None  # it matches anything
    return found.group(1), found.end()


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
