"""The conversation of a request, made such that no server refuses it for what the model wrote in it.

A model can write names, ids and arguments that a server later refuses in the history of its conversation. Here
they are replaced where they are sent; what is recorded stays as it was. The form of an API belongs to its dialect.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from agentrl.messages import Message, ToolCall
from agentrl.policy.control import tool_name
from agentrl.safe_json import safe_text

_NAME_CHARS = 64
# What stands for a turn without text and calls, which some servers refuse.
NO_TEXT = "(no text)"
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_GOOD_ID = re.compile(r"[!-~]{1,40}")
# The id of a call to which the server gave none. Mistral refuses it.
_OWN_ID = re.compile(r"call_[0-9]+")


def safe_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], good_id: re.Pattern[str] = _GOOD_ID
) -> list[Message]:
    """The conversation with calls and turns that any server accepts.

    - Names of tools that do not exist match `[a-zA-Z0-9_-]{1,64}`.
    - Ids of calls are unique and match `good_id`; the result of a call has the id of its call.
    - Arguments are a JSON object.
    - An assistant turn that is empty says `NO_TEXT`.

    Args:
        messages: the conversation.
        tools: definitions, whose names stay as they are.
        good_id: ids that the server accepts; others are replaced.
    """
    history = _History({tool_name(tool) for tool in tools}, good_id)
    return [history.safe(message) for message in messages]


def encoded(body: Mapping[str, Any]) -> bytes:
    """A request body as JSON in UTF-8; what UTF-8 cannot hold is U+FFFD."""
    return safe_text(json.dumps(body, ensure_ascii=False)).encode()


class _History:
    """Goes through one message after the other, and remembers the ids."""

    def __init__(self, tool_names: set[str], good_id: re.Pattern[str]) -> None:
        self._tool_names, self._good_id = tool_names, good_id
        self._used: set[str] = set()
        self._num_calls = 0
        self._waiting: dict[str, deque[str]] = defaultdict(deque)  # ids as sent, by id as recorded, of open calls

    def safe(self, message: Message) -> Message:
        if message.role == "assistant":
            return self._turn(message)
        if message.tool_call_id is not None:
            waiting = self._waiting[message.tool_call_id]
            message = structs.replace(message, tool_call_id=waiting.popleft() if waiting else message.tool_call_id)
        if message.name is not None and message.role == "tool":
            message = structs.replace(message, name=self._name(message.name))
        return message

    def _turn(self, message: Message) -> Message:
        self._waiting.clear()
        if message.tool_calls:
            return structs.replace(message, tool_calls=tuple([self._call(call) for call in message.tool_calls]))
        return message if message.content.strip() else structs.replace(message, content=NO_TEXT)

    def _call(self, call: ToolCall) -> ToolCall:
        return ToolCall(self._name(call.name), _arguments(call), self._id(call.id), call.error)

    def _name(self, name: str) -> str:
        if name in self._tool_names:
            return name
        return _NOT_IN_A_NAME.sub("_", name)[:_NAME_CHARS] or "unknown"

    def _id(self, given: str) -> str:
        """The id to send: the given one, or a new one of nine letters and digits, as Mistral requires."""
        new = given
        if _OWN_ID.fullmatch(given) or not self._good_id.fullmatch(given):
            new = ""
        while not new or new in self._used:
            new = f"call{self._num_calls:05d}"
            self._num_calls += 1
        self._used.add(new)
        self._waiting[given].append(new)
        return new


def _arguments(call: ToolCall) -> Mapping[str, Any]:
    try:
        json.dumps(dict(call.arguments), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return {}
    return call.arguments
