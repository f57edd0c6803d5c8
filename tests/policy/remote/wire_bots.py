"""Replies in each API's form, as the makers' SDKs describe them, and a bot that adds two numbers in all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

PATHS = {"openai": "/v1/chat/completions", "responses": "/v1/responses", "anthropic": "/v1/messages"}
KINDS = tuple(PATHS)
SERVED = "bot-2026-11-01"
Call = tuple[str, str, Any]
"""Id, name, and arguments: an object, or JSON text as it stands."""


def reply(kind: str, text: str = "", calls: Sequence[Call] = (), *, finish: str = "", **more: Any) -> dict[str, Any]:
    """A reply. Args: finish: why the turn ended, in the API's own words; more: further fields."""
    return {**_MAKERS[kind](text, calls, finish), "model": SERVED, **more}


def _chat(text: str, calls: Sequence[Call], finish: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": _json(arguments)}}
            for call_id, name, arguments in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": finish or ("tool_calls" if calls else "stop")}
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 3,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    return {"id": "c1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}


def _responses(text: str, calls: Sequence[Call], finish: str) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if text:
        part = {"type": "output_text", "text": text, "annotations": []}
        output.append({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]})
    output += [
        {
            "id": f"fc_{call_id}",
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": _json(arguments),
            "status": "completed",
        }
        for call_id, name, arguments in calls
    ]
    usage = {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }
    ended = {"status": "incomplete", "incomplete_details": {"reason": finish}} if finish else {"status": "completed"}
    fixed = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {"id": "r1", "object": "response", "created_at": 1, "output": output, "usage": usage, **ended, **fixed}


def _messages(text: str, calls: Sequence[Call], finish: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    content += [{"type": "tool_use", "id": call_id, "name": name, "input": given} for call_id, name, given in calls]
    usage = {
        "input_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "output_tokens": 3,
        "output_tokens_details": {"thinking_tokens": 2},
    }
    stop = finish or ("tool_use" if calls else "end_turn")
    return {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


_MAKERS = {"openai": _chat, "responses": _responses, "anthropic": _messages}


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def error(kind: str, message: str, code: str) -> dict[str, Any]:
    """An error body."""
    if kind == "anthropic":
        return {"type": "error", "error": {"type": code, "message": message}, "request_id": "req_1"}
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def said(kind: str, body: Mapping[str, Any]) -> list[str]:
    """The texts of a request's conversation in order; a result of a tool begins with `result:`."""
    if kind == "openai":
        return [("result:" if m["role"] == "tool" else "") + (m["content"] or "") for m in body["messages"]]
    if kind == "responses":
        items = [item for item in body["input"] if item.get("type") != "function_call"]
        return [f"result:{item['output']}" if "output" in item else str(item.get("content")) for item in items]
    blocks = [block for message in body["messages"] for block in message["content"] if block["type"] != "tool_use"]
    return [f"result:{block['content']}" if "content" in block else str(block.get("text")) for block in blocks]


def add_numbers(kind: str, body: Mapping[str, Any], *, truncated: bool = False) -> dict[str, Any]:
    """The bot's turn: a call of `add` for a question "a+b" or after an error, the tool's result as the answer.

    Args: truncated: the arguments of the call lack their end.
    """
    texts = said(kind, body)
    last = texts[-1]
    if last.startswith("result:") and last.removeprefix("result:").isdigit():
        return reply(kind, last.removeprefix("result:"))
    a, b = next(text for text in texts if "+" in text).split("+")
    arguments: Any = {"a": int(a), "b": int(b)}
    if truncated:
        arguments = json.dumps(arguments)[:-2]
    return reply(kind, calls=[(f"call_{len(texts)}x", "add", arguments)])
