"""Reading one call and thinking out of a model's text. Never raises: what cannot be read is an error in the call."""

from __future__ import annotations

import re
from typing import Any

from agentrl.messages import ToolCall
from agentrl.policy.strict_json import read_json


def read_call(body: str, index: int, arguments_key: str) -> ToolCall:
    """Read one call's JSON.

    Args:
        body: the text of the call.
        index: its place in the turn; becomes the call's id.
        arguments_key: `arguments` or `parameters`; the other one is accepted too.
    """
    try:
        return call_of(read_json(body), index, arguments_key)
    except ValueError as error:
        return ToolCall(_name_in(body), {}, f"call_{index}", f"not valid JSON: {error}")


def call_of(call: Any, index: int, arguments_key: str) -> ToolCall:
    """The call in a JSON value; arguments as for `read_call`."""
    call_id = f"call_{index}"
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return ToolCall("", {}, call_id, f'expected {{"name": ..., "{arguments_key}": {{...}}}}')
    other = "parameters" if arguments_key == "arguments" else "arguments"
    arguments = call.get(arguments_key, call.get(other, {}))
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        return ToolCall(call["name"], {}, call_id, f"{arguments_key} must be a JSON object, got {kind}")
    return ToolCall(call["name"], arguments, call_id)


def split_reasoning(text: str, *, opened: bool = False) -> tuple[str | None, str]:
    """Split `<think>...</think>` from the front; a thought that was cut off has no text after it.

    Args:
        text: the turn.
        opened: the prompt already ends with `<think>`.
    """
    thought, closed, rest = text.partition("</think>")
    if closed and (opened or "<think>" in thought):
        before, _, inside = thought.partition("<think>") if "<think>" in thought else ("", "", thought)
        return inside.strip(), before + rest
    start = text.lstrip()
    if opened or start.startswith("<think>"):
        return start.removeprefix("<think>").strip(), ""
    return None, text


def _name_in(body: str) -> str:
    """The name in a call that is not valid JSON, so that the error can be counted under its tool."""
    found = re.search(r'"name"\s*:\s*"([^"\\]*)"', body)
    return found.group(1) if found else ""
