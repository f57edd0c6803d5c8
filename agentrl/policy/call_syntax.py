"""Reading tool calls and thinking out of a model's text. Never raises: what cannot be read is an error in the call."""

from __future__ import annotations

import json
import re

from agentrl.messages import ToolCall

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_LLAMA3_TAG = "<|python_tag|>"
_LLAMA3_START = re.compile(r'\s*\{\s*"(?:type|name)"\s*:')


def hermes_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Read `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen).

    Returns: the text outside the calls, stripped, and the calls. A call whose closing tag is missing
    counts if its JSON is whole.
    """
    bodies = _HERMES.findall(text)
    calls = [read_call(body, index, "arguments") for index, body in enumerate(bodies)]
    return _HERMES.sub("", text).strip() if bodies else text.strip(), calls


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


def read_call(body: str, index: int, arguments_key: str) -> ToolCall:
    """Read one call's JSON.

    Args:
        body: the text of the call.
        index: its place in the turn; becomes the call's id.
        arguments_key: `arguments` or `parameters`; the other one is accepted too.
    """
    call_id = f"call_{index}"
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        return ToolCall(_name_in(body), {}, call_id, f"not valid JSON: {error}")
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
