"""Calls whose name stands in markup: `NamedCalls` with JSON arguments, `TaggedCalls` with one tag an argument.

Owns their reading, and how an argument's value is written so that it reads back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.messages import ToolCall
from agentrl.policy.format.call_syntax import types_of, with_arguments
from agentrl.policy.format.json_calls import end_of_json, skip_space
from agentrl.policy.strict_json import read_json_at

_PYTHON = {"True": True, "False": False, "None": None}


@dataclass(frozen=True)
class NamedCalls:
    """A name in markup, and arguments in JSON: `<|call_begin|>NAME<|sep|>{...}<|call_end|>` (DeepSeek, Mistral).

    Attributes:
        begin: before the first call of a turn; empty where each call is marked alone.
        opener: before a name.
        middle: between name and arguments.
        closer: after the arguments; may be empty.
        end: after the last call of a turn; may be empty.
    """

    begin: str
    opener: str
    middle: str
    closer: str
    end: str

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """Read the calls of a turn. Returns: the text outside the calls, stripped, and the calls."""
        calls: list[ToolCall] = []
        start = text.find(self.opener)
        if start < 0:
            return text.strip(), calls
        said = [text[:start].rstrip().removesuffix(self.begin)]
        place = start
        while text.startswith(self.opener, place):
            call, place = self._call(text, place + len(self.opener), len(calls))
            calls.append(call)
            following = skip_space(text, place)
            place = following if text.startswith(self.opener, following) else place
        rest = text[place:].lstrip()
        said.append(rest.removeprefix(self.end) if self.end else rest)
        return "".join(said).strip(), calls

    def _call(self, text: str, start: int, index: int) -> tuple[ToolCall, int]:
        call_id = f"call_{index}"
        middle = text.find(self.middle, start)
        if middle < 0:
            return ToolCall(text[start : start + 64].strip(), {}, call_id, f"expected NAME{self.middle}{{...}}"), len(
                text
            )
        name = text[start:middle].strip()
        begin = skip_space(text, middle + len(self.middle))
        try:
            value, end = read_json_at(text, begin)
        except ValueError as error:
            return ToolCall(name, {}, call_id, f"not valid JSON: {error}"), self._after(text, begin)
        after = skip_space(text, end)
        closed = bool(self.closer) and text.startswith(self.closer, after)
        return with_arguments(name, value, call_id), after + len(self.closer) if closed else end

    def _after(self, text: str, begin: int) -> int:
        """Where the call after one that cannot be read begins, or the end of the text."""
        following = text.find(self.opener, end_of_json(text, begin) or begin)
        return following if following >= 0 else len(text)

    def write(self, call: ToolCall) -> str:
        """The text of one call."""
        arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
        return f"{self.begin}{self.opener}{call.name}{self.middle}{arguments}{self.closer}{self.end}"


@dataclass(frozen=True)
class TaggedCalls:
    """One tag an argument: `<function=NAME><parameter=KEY>VALUE</parameter></function>` (Qwen3-Coder, GLM).

    A value is JSON, or the text itself where it is a string. A string that would not read back as itself, because it
    looks like JSON or holds the closing tag, is written as a JSON string.

    Attributes:
        opener: before a name; each mark is without blanks at its ends.
        after_name: behind it; may be empty.
        key_opener, key_closer: around a key.
        value_closer: after a value.
        closer: after the last value.
        padding: around a value: a line break, or nothing.
    """

    opener: str
    after_name: str
    key_opener: str
    key_closer: str
    value_closer: str
    closer: str
    padding: str = "\n"

    def read(self, text: str, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[str, list[ToolCall]]:
        """Read the calls of a turn.

        Args: tools: definitions; a value of a parameter of type string is not read as JSON.
        Returns: the text outside the calls, stripped, and the calls.
        """
        said: list[str] = []
        calls: list[ToolCall] = []
        place = 0
        pattern = _blanks_between(self.opener)
        while found := pattern.search(text, place):
            said.append(text[place : found.start()])
            call, place = self._call(text, found.end(), len(calls), tools)
            calls.append(call)
        said.append(text[place:])
        return "".join(said).strip(), calls

    def _call(self, text: str, start: int, index: int, tools: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, int]:
        ends = [mark for mark in (self.after_name, self.key_opener, self.closer) if mark]
        found = re.compile("|".join(map(re.escape, ends))).search(text, start)
        name_end = found.start() if found else len(text)
        name = text[start:name_end].strip()
        place = (
            name_end + len(self.after_name) if self.after_name and found and found[0] == self.after_name else name_end
        )
        types, arguments = types_of(tools, name), {}
        while text.startswith(self.key_opener, place := skip_space(text, place)):
            key_start = place + len(self.key_opener)
            key_end = text.find(self.key_closer, key_start)
            if key_end < 0:
                break
            key = text[key_start:key_end].strip()
            value = self._value(text, key_end + len(self.key_closer), types.get(key))
            if value is None:
                break
            arguments[key], place = value
        closed = _blanks_between(self.closer).match(text, place)
        if closed:
            return ToolCall(name, arguments, f"call_{index}"), closed.end()
        following = _blanks_between(self.opener).search(text, place)
        error = f"the call is cut off, or not of the form {self.write(ToolCall('NAME', {'KEY': 'VALUE'}))}"
        return ToolCall(name, arguments, f"call_{index}", error), following.start() if following else len(text)

    def _value(self, text: str, start: int, schema: Any) -> tuple[Any, int] | None:
        """The value that begins at `start`, and the place behind its closing tag; None if that is missing."""
        begin = skip_space(text, start)
        takes_text = isinstance(schema, Mapping) and schema.get("type") == "string"
        if not takes_text or text.startswith('"', begin):
            try:
                value, end = read_json_at(text, begin)
            except ValueError:
                pass
            else:
                after = skip_space(text, end)
                if self._ends(text, after):
                    return value, after + len(self.value_closer)
        place = text.find(self.value_closer, start)
        while place >= 0 and not self._ends(text, place):
            place = text.find(self.value_closer, place + 1)
        if place < 0:
            return None
        raw = text[start:place].removeprefix(self.padding).removesuffix(self.padding)
        value = raw if takes_text else _PYTHON.get(raw, raw)
        return value, place + len(self.value_closer)

    def _ends(self, text: str, place: int) -> bool:
        """Whether a value's closing tag stands here, and after it another argument, the call's end or the turn's."""
        if not text.startswith(self.value_closer, place):
            return False
        after = skip_space(text, place + len(self.value_closer))
        return (
            after == len(text)
            or text.startswith(self.key_opener, after)
            or _blanks_between(self.closer).match(text, after) is not None
        )

    def writable(self, call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The arguments as the template writes them back to back: a string that would not read back is JSON."""
        types = types_of(tools, call.name)
        return {key: self._writable(value, types.get(key)) for key, value in call.arguments.items()}

    def _writable(self, value: Any, schema: Any) -> Any:
        if not isinstance(value, str):
            return value
        padded = f"{self.padding}{value}{self.padding}{self.value_closer}"
        read = self._value(f"{padded}\n{self.key_opener}", 0, schema)
        same = read is not None and type(read[0]) is str and read == (value, len(padded))
        return value if same else json.dumps(value, ensure_ascii=False)

    def write(self, call: ToolCall) -> str:
        """The text of one call."""
        parts = [f"{self.opener}{call.name}{self.after_name}\n"]
        for key, value in call.arguments.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            parts.append(
                f"{self.key_opener}{key}{self.key_closer}{self.padding}{text}{self.padding}{self.value_closer}\n"
            )
        return "".join(parts) + self.closer


def _blanks_between(mark: str) -> re.Pattern[str]:
    """The mark, with any blanks where it has some."""
    return re.compile(r"\s*".join(map(re.escape, mark.split())) if mark else "")
