"""The format that a chat template itself shows: how calls are written is found by rendering probe calls.

Owns the derivation. Reading belongs to `json_calls` and `marked_calls`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl.messages import Action, ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import CallKeys, CallSyntax, split_reasoning
from agentrl.policy.format.dialect import MARK, Dialect
from agentrl.policy.format.hermes import HERMES
from agentrl.policy.format.json_calls import BareCalls, JsonCalls
from agentrl.policy.format.marked_calls import NamedCalls, TaggedCalls
from agentrl.policy.strict_json import read_json_at

_FIRST = ToolCall("zq_first_tool", {"zq_one": "zq_ay", "zq_two": "zq_bee"}, "call_0")
_SECOND = ToolCall("zq_second_tool", {"zq_one": "zq_cee", "zq_two": "zq_dee"}, "call_1")
_EMPTY = ToolCall("zq_first_tool", {}, "call_0")
# Marks that models know whose templates show tools but write no calls (Phi-4-mini).
_KNOWN_MARKS = (("<|tool_call|>", "<|/tool_call|>"),)

Body = Callable[..., str | None]
"""Calls, and what is said before them, to the text of a turn; None where the template refuses them."""


class TemplateFormat(ChatFormat):
    """Calls as the chat template writes them: JSON between marks, bare JSON, a marked name with JSON, or tags.

    Where the template writes no calls, they are `<tool_call>` JSON within the text.
    """

    name = "template"
    syntax: CallSyntax = HERMES

    @classmethod
    def shows(cls, template: str) -> bool:
        return True

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        return self.syntax.read(text)

    def read_calls(self, text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[ToolCall]]:
        return self.syntax.read(text, tools) if isinstance(self.syntax, TaggedCalls) else self.syntax.read(text)

    def write_call(self, call: ToolCall) -> str:
        return self.syntax.write(call)

    def writable(self, call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self.syntax.writable(call, tools) if isinstance(self.syntax, TaggedCalls) else call.arguments

    def _reads(self, dialect: Dialect) -> bool:
        self.dialect = dialect

        def body(*calls: ToolCall, text: str = "") -> str | None:
            return self.written(Action(text, calls))

        found = derive(body)
        if found is not None:
            self.syntax = found
        return found is not None

    def _without_calls(self) -> None:
        known = self.tokenizer.get_added_vocab()
        for opener, closer in _KNOWN_MARKS:
            if opener in known and closer in known:
                self.syntax = JsonCalls(opener, closer, is_list=True)


def derive(body: Body) -> CallSyntax | None:
    """How a template writes calls; None if no known syntax reads what it writes."""
    one = body(_FIRST)
    if one is None:
        return None
    two, said = body(_FIRST, _SECOND), body(_FIRST, text=MARK)
    for kind in (_json_calls, _named_calls, _tagged_calls):
        found = kind(one, two, said)
        if found is not None and _reads_back(found, one, two):
            return found
    return None


def _reads_back(syntax: CallSyntax, one: str, two: str | None) -> bool:
    _, calls = syntax.read(split_reasoning(one)[1])
    more = syntax.read(split_reasoning(two)[1])[1] if two is not None else [_FIRST, _SECOND]
    return _plain(calls) == _plain([_FIRST]) and (two is None or _plain(more) == _plain([_FIRST, _SECOND]))


def _plain(calls: Sequence[ToolCall]) -> list[tuple[str, dict[str, Any], str | None]]:
    return [(call.name, dict(call.arguments), call.error) for call in calls]


def _opener(one: str, start: int, said: str | None) -> str:
    """What stands before a call that begins at `start`: behind what is said, where the template writes both."""
    between = "" if said is None else said.partition(MARK)[2]
    if _FIRST.name in between:
        prefix = one[:start]
        return _common_end(prefix, between[: between.find(one[start : start + 12])]).strip()
    return split_reasoning(one[:start])[1].strip() if "</think>" in one[:start] else one[:start].strip()


def _json_calls(one: str, two: str | None, said: str | None) -> CallSyntax | None:
    """`opener {"name": ..., "arguments": {...}} closer`, or a list of such objects."""
    for found in re.finditer(r"\{", one[: one.find(_FIRST.name)]):
        try:
            value, end = read_json_at(one, found.start())
        except ValueError:
            continue
        keys = _keys_of(value)
        if keys is None:
            continue
        opener, closer = _opener(one, found.start(), said), one[end:].strip()
        is_list = opener.endswith("[") and closer.startswith("]")
        if is_list:
            opener, closer = opener[:-1].strip(), closer[1:].strip()
        return JsonCalls(opener, closer, keys, is_list) if opener else BareCalls(keys)
    return None


def _keys_of(value: Any) -> CallKeys | None:
    """The keys of the probe call's name and arguments in an object; None if it does not hold them."""
    if not isinstance(value, dict):
        return None
    name = next((key for key, item in value.items() if item == _FIRST.name), None)
    if name is None:
        inside = ((key, _keys_of(item)) for key, item in value.items() if isinstance(item, dict))
        return next((CallKeys(keys.name, keys.arguments, key) for key, keys in inside if keys is not None), None)
    arguments = next((key for key, item in value.items() if _is_arguments(item)), None)
    return CallKeys(name, arguments) if arguments is not None else None


def _is_arguments(item: Any) -> bool:
    if isinstance(item, str) and item.startswith("{"):
        try:
            item = read_json_at(item, 0)[0]
        except ValueError:
            return False
    return bool(item == dict(_FIRST.arguments))


def _named_calls(one: str, two: str | None, said: str | None) -> CallSyntax | None:
    """`opener NAME middle {...} closer`."""
    place = _span(one, _FIRST)
    if place is None:
        return None
    name_at, name_end, start, end = place
    before, middle, after = _opener(one, name_at, said), one[name_end:start], one[end:]
    opener, closer, begin, finish = before, after, "", ""
    if two is not None:
        first, second = _span(two, _FIRST), _span(two, _SECOND)
        if first is None or second is None:
            return None
        between = two[first[3] : second[0]]
        opener = _common_end(before, between)
        closer = _common_start(after, between)
        begin, finish = before[: len(before) - len(opener)], after[len(closer) :]
    if not opener.strip() or not middle.strip():
        return None
    return NamedCalls(begin.strip(), opener.strip(), middle.strip(), closer.strip(), finish.strip())


def _span(text: str, call: ToolCall) -> tuple[int, int, int, int] | None:
    """Begin and end of a call's name, and of its arguments in JSON behind it."""
    name_at = text.find(call.name)
    name_end = name_at + len(call.name)
    start = text.find("{", name_end) if name_at >= 0 else -1
    while start >= 0:
        try:
            value, end = read_json_at(text, start)
        except ValueError:
            value, end = None, start
        if value == dict(call.arguments):
            return name_at, name_end, start, end
        start = text.find("{", start + 1)
    return None


def _tagged_calls(one: str, two: str | None, said: str | None) -> CallSyntax | None:
    """`opener NAME after_name (key_opener KEY key_closer VALUE value_closer)* closer`."""
    words = [_FIRST.name, *[word for pair in _FIRST.arguments.items() for word in pair]]
    places = [one.find(word) for word in words]
    if min(places) < 0 or places != sorted(places):
        return None
    ends = [place + len(word) for place, word in zip(places, words, strict=True)]
    before_key, key_closer, between, _ = (one[end:place] for end, place in zip(ends, places[1:], strict=False))
    tail = one[ends[-1] :]
    value_closer = _whole_tags(_common_start(between, tail))
    key_opener = between[len(value_closer) :]
    if not key_opener.strip() or not value_closer.strip() or not before_key.endswith(key_opener):
        return None
    after_name = before_key[: len(before_key) - len(key_opener)]
    return TaggedCalls(
        _opener(one, places[0], said),
        after_name.strip(),
        key_opener.strip(),
        key_closer.strip(),
        value_closer.strip(),
        tail[len(value_closer) :].strip(),
        "\n" if key_closer.endswith("\n") and value_closer.startswith("\n") else "",
    )


def _common_start(a: str, b: str) -> str:
    same = next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:same]


def _common_end(a: str, b: str) -> str:
    return _common_start(a[::-1], b[::-1])[::-1]


def _whole_tags(text: str) -> str:
    """The text without a tag at its end that is not closed."""
    opened, closed = text.rfind("<"), text.rfind(">")
    return text[:opened] if opened > closed else text
