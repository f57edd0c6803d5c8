"""The Hermes format: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

from __future__ import annotations

import json
import re

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import call_of, read_call
from agentrl.policy.strict_json import read_json_at

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
        call, place = _call(text, start + len(_OPEN), len(calls))
        calls.append(call)
    said.append(text[place:])
    return "".join(said).strip(), calls


def _call(text: str, start: int, index: int) -> tuple[ToolCall, int]:
    """The call that begins at `start`, and the place behind it and its closing tag."""
    begin = _skip_space(text, start)
    try:
        value, end = read_json_at(text, begin)
    except ValueError:
        found = _UNTIL_TAG.match(text, _end_of_json(text, begin) or start)
        assert found is not None  # it matches anything
        return read_call(text[start : found.end(1)], index, "arguments"), found.end()
    after = _skip_space(text, end)
    if text.startswith(_CLOSE, after):
        return call_of(value, index, "arguments"), after + len(_CLOSE)
    if after == len(text) or text.startswith(_OPEN, after):
        return call_of(value, index, "arguments"), after
    found = _UNTIL_TAG.match(text, start)
    assert found is not None  # it matches anything
    return read_call(found.group(1), index, "arguments"), found.end()


def _end_of_json(text: str, begin: int) -> int:
    """Where the JSON ends that Python reads and we refuse; 0 if Python cannot read it either."""
    try:
        return _decoder.raw_decode(text, begin)[1]
    except (ValueError, RecursionError):
        return 0


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
