"""Calls as JSON objects, `{"name": ..., "arguments": {...}}`, alone or in a list, between marks. Owns their reading."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from agentrl.messages import ToolCall
from agentrl.policy.format.call_syntax import CallKeys, call_of, read_call
from agentrl.policy.strict_json import read_json_at

_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"\s*[;,]?\s*")
_PYTHON_TAG = "<|python_tag|>"
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class JsonCalls:
    """Calls between an opening and a closing mark: `<tool_call>{...}</tool_call>`, `[TOOL_CALLS] [{...}, {...}]`.

    Attributes:
        opener: text before a call or a list of calls; not empty.
        closer: text after it; may be empty.
        keys: of the name and the arguments in a call's object.
        is_list: calls are written as a list. A list and a single object are read either way.
    """

    opener: str
    closer: str
    keys: CallKeys = CallKeys()
    is_list: bool = False

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """Read the calls of a turn. A mark inside a string of a call's JSON is text of that string.

        A call whose closing mark is missing counts if its JSON is whole.

        Returns: the text outside the calls, stripped, and the calls.
        """
        said: list[str] = []
        calls: list[ToolCall] = []
        place = 0
        while (start := text.find(self.opener, place)) >= 0:
            said.append(text[place:start])
            found, place = self._calls(text, start + len(self.opener), len(calls))
            calls += found
        said.append(text[place:])
        return "".join(said).strip(), calls

    def _calls(self, text: str, start: int, index: int) -> tuple[list[ToolCall], int]:
        """The calls that begin at `start`, and the place behind them and their closing mark."""
        begin = skip_space(text, start)
        try:
            value, end = read_json_at(text, begin)
        except ValueError:
            close, after = self._until_mark(text, end_of_json(text, begin) or start)
            return [read_call(text[start:close], index, self.keys)], after
        after = skip_space(text, end)
        values = value if isinstance(value, list) and value else [value]
        calls = [call_of(item, index + number, self.keys) for number, item in enumerate(values)]
        if self.closer and text.startswith(self.closer, after):
            return calls, after + len(self.closer)
        if not self.closer:
            return calls, end
        if after == len(text) or text.startswith(self.opener, after):
            return calls, after
        close, after = self._until_mark(text, start)
        return [read_call(text[start:close], index, self.keys)], after

    def _until_mark(self, text: str, start: int) -> tuple[int, int]:
        """Where the next closing or opening mark begins, and where reading goes on after it."""
        opened = text.find(self.opener, start)
        closed = text.find(self.closer, start) if self.closer else -1
        if closed >= 0 and (opened < 0 or closed < opened):
            return closed, closed + len(self.closer)
        return (opened, opened) if opened >= 0 else (len(text), len(text))

    def write(self, call: ToolCall) -> str:
        """The text of one call."""
        body = json.dumps({self.keys.name: call.name, self.keys.arguments: dict(call.arguments)}, ensure_ascii=False)
        body = f"[{body}]" if self.is_list else f"\n{body}\n"
        return f"{self.opener}{body}{self.closer}"


@dataclass(frozen=True)
class BareCalls:
    """Calls as bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;` (Llama 3).

    Attributes: keys: of the name and the arguments in a call's object.
    """

    keys: CallKeys = CallKeys(arguments="parameters")

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """Read the calls of a turn; text that does not begin like a call is an answer.

        Returns: the text before `<|python_tag|>` (empty without it), and the calls.
        """
        said, body = "", text
        start = re.compile(rf'\s*\{{\s*"(?:type|function|{re.escape(self.keys.name)})"\s*:')
        if not start.match(body):
            said, tagged, body = text.partition(_PYTHON_TAG)
            if not tagged:
                return text.strip(), []
        return said.strip(), self._calls(body.strip())

    def _calls(self, body: str) -> list[ToolCall]:
        """The calls in `{...}; {...}`; from a call on that cannot be read, the rest of the text is one call."""
        calls: list[ToolCall] = []
        place = 0
        while place < len(body) or not calls:
            try:
                value, end = read_json_at(body, place)
            except ValueError:
                return [*calls, read_call(body[place:], len(calls), self.keys)]
            calls.append(call_of(value, len(calls), self.keys))
            found = _BETWEEN.match(body, end)
            place = end if found is None else found.end()
        return calls

    def write(self, call: ToolCall) -> str:
        """The text of one call."""
        return json.dumps({self.keys.name: call.name, self.keys.arguments: dict(call.arguments)}, ensure_ascii=False)


def end_of_json(text: str, begin: int) -> int:
    """Where the JSON ends that Python reads and we refuse; 0 if Python cannot read it either."""
    try:
        return _decoder.raw_decode(text, begin)[1]
    except (ValueError, RecursionError):
        return 0


def skip_space(text: str, place: int) -> int:
    """The next place at which the text is not blank."""
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
