"""The messages of a request: a conversation in OpenAI's form that no server refuses for what the model wrote in it.

A model can write names, ids and arguments that a server later refuses in the history of its conversation. Here
they are replaced where they are sent; what is recorded stays as it was.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

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


def sent_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], reasoning_field: str | None
) -> list[dict[str, Any]]:
    """The conversation in OpenAI's form.

    - Names of tools that do not exist match `[a-zA-Z0-9_-]{1,64}`.
    - Ids of calls are unique, not empty and at most 40 characters long; the result of a call has the id of its call.
    - Arguments are a JSON object.
    - An assistant turn that is empty says `NO_TEXT`.

    Args:
        messages: the conversation.
        tools: definitions, whose names stay as they are.
        reasoning_field: name of the field in which earlier reasoning is sent back; None sends none.
    """
    history = _History({tool_name(tool) for tool in tools}, reasoning_field)
    return [history.sent(message) for message in messages]


def encoded(body: Mapping[str, Any]) -> bytes:
    """A request body as JSON in UTF-8; what UTF-8 cannot hold is U+FFFD."""
    return safe_text(json.dumps(body, ensure_ascii=False)).encode()


class _History:
    """Renders one message after the other, and remembers the ids."""

    def __init__(self, tool_names: set[str], reasoning_field: str | None) -> None:
        self._tool_names, self._reasoning_field = tool_names, reasoning_field
        self._used: set[str] = set()
        self._num_calls = 0
        self._waiting: dict[str, deque[str]] = defaultdict(deque)  # ids as sent, by id as recorded, of open calls

    def sent(self, message: Message) -> dict[str, Any]:
        body: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "assistant":
            self._waiting.clear()
            if not message.tool_calls and not message.content.strip():
                body["content"] = NO_TEXT
        if message.tool_calls:
            body["tool_calls"] = [self._call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            waiting = self._waiting[message.tool_call_id]
            body["tool_call_id"] = waiting.popleft() if waiting else message.tool_call_id
        if message.name is not None:
            body["name"] = self._name(message.name) if message.role == "tool" else message.name
        if message.reasoning is not None and self._reasoning_field is not None:
            body[self._reasoning_field] = message.reasoning
        return body

    def _call(self, call: ToolCall) -> dict[str, Any]:
        function = {"name": self._name(call.name), "arguments": _arguments(call)}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _name(self, name: str) -> str:
        if name in self._tool_names:
            return name
        return _NOT_IN_A_NAME.sub("_", name)[:_NAME_CHARS] or "unknown"

    def _id(self, given: str) -> str:
        """The id to send: the given one, or a new one of nine letters and digits, as Mistral requires."""
        new = given
        if _OWN_ID.fullmatch(given) or not _GOOD_ID.fullmatch(given):
            new = ""
        while not new or new in self._used:
            new = f"call{self._num_calls:05d}"
            self._num_calls += 1
        self._used.add(new)
        self._waiting[given].append(new)
        return new


def _arguments(call: ToolCall) -> str:
    try:
        return json.dumps(dict(call.arguments), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return "{}"
