"""Anthropic's Messages: blocks in place of messages, a thought with its signature. Threads on a server are not offered.

Written against anthropic 2.14 (`anthropic.types`). Tools that the API itself would run are not shown to the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl.messages import ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.serving.answer_forms import call_form
from agentrl.serving.api_errors import ApiError
from agentrl.serving.capture.dialects.base import Answered, Dialect, Stream, as_list, asked, event, limited, texts
from agentrl.serving.chat_model import Choice
from agentrl.serving.chat_request import ChatRequest

# A line of a client about itself, which differs from request to request.
_BILLING = "x-anthropic-billing-header:"
_TEXTS = ("text",)
_UNREADABLE = "unreadable"
"""Input of a call that cannot be read, which must be an object here: the model's own text."""
_STOPS = {"length": "max_tokens", "tool_calls": "tool_use"}
_KINDS = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 413: "request_too_large"}


class Messages(Dialect):
    """`POST /v1/messages`."""

    ping = event({"type": "ping"}, "ping")

    def read(self, body: Mapping[str, Any], sampling: SamplingParams) -> ChatRequest:
        if body.get("thread") is not None:
            raise ApiError("threads are not kept here: send the whole conversation", code="thread_unsupported_request")
        told = [text for text in texts(body.get("system"), _TEXTS) if not text.startswith(_BILLING)]
        messages = [{"role": "system", "content": "\n\n".join(told)}] if told else []
        for message in as_list(body.get("messages"), "messages"):
            messages += _chat_messages(message)
        tools = [_tool(tool) for tool in as_list(body.get("tools"), "tools") if "input_schema" in tool]
        return asked(body, messages, tools, limited(sampling, body.get("max_tokens"), body.get("stop_sequences")))

    def whole(self, answered: Answered) -> dict[str, Any]:
        choice = answered.answer.choices[0]
        blocks = [_thought(choice, answered.id)] if choice.action.reasoning is not None else []
        if choice.action.text or not choice.action.tool_calls:
            blocks.append({"type": "text", "text": choice.action.text})
        blocks += [_use(choice, call) for call in choice.action.tool_calls]
        usage, stop = _usage(answered), _stop(choice)
        return {**_head(answered.id, answered.model), "content": blocks, "stop_reason": stop, "usage": usage}

    def stream(self, model: str) -> Stream:
        return _Events(model)

    def refused(self, error: ApiError) -> dict[str, Any]:
        kind = "api_error" if error.status >= 500 else _KINDS.get(error.status, "invalid_request_error")
        found: dict[str, Any] = {"type": kind, "message": error.message}
        if error.code == "context_length_exceeded":
            found["message"] = f"prompt is too long: {error.message}"
        if error.code is not None:
            found["details"] = {"error_code": error.code}
        return {"type": "error", "error": found}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    described = {"description": tool["description"]} if tool.get("description") else {}
    function = {"name": tool.get("name"), **described, "parameters": tool["input_schema"]}
    return {"type": "function", "function": function}


def _chat_messages(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A message in chat form: each result of a tool is one of its own."""
    role, content = message.get("role"), message.get("content")
    if role == "assistant":
        yield _turn(content)
        return
    if not isinstance(content, list):
        yield {"role": role, "content": content}
        return
    others: list[Mapping[str, Any]] = []
    for block in as_list(content, "content"):
        if block.get("type") == "tool_result":
            text = "".join(texts(block.get("content"), _TEXTS))
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
        else:
            others.append(block)
    if others:
        yield {"role": role, "content": "\n\n".join(texts(others, _TEXTS))}


def _turn(content: Any) -> dict[str, Any]:
    """A turn of the model in chat form."""
    turn: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
    if isinstance(content, str):
        return {**turn, "content": content}
    for block in as_list(content, "content"):
        kind = block.get("type")
        if kind == "tool_use":
            given = block.get("input")
            is_raw = isinstance(given, dict) and set(given) == {_UNREADABLE}
            function = {"name": block.get("name"), "arguments": given[_UNREADABLE] if is_raw else given}
            turn["tool_calls"].append({"id": block.get("id"), "type": "function", "function": function})
        elif kind in ("thinking", "redacted_thinking"):
            turn["signature"] = str(block.get("signature") or "")
        else:
            turn["content"] += "".join(texts([block], _TEXTS))
    return turn


# Answers.


def _head(turn_id: str, model: str) -> dict[str, Any]:
    return {"id": f"msg_{turn_id}", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


def _usage(answered: Answered) -> dict[str, int]:
    prompt, cached, sampled = answered.usage
    kept = {"cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
    return {"input_tokens": prompt - cached, **kept, "output_tokens": sampled}


def _stop(choice: Choice) -> str:
    return _STOPS.get(choice.action.finish_reason, "end_turn")


def _thought(choice: Choice, turn_id: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": choice.action.reasoning, "signature": f"sig_{turn_id}"}


def _use(choice: Choice, call: ToolCall) -> dict[str, Any]:
    raw = call.id in choice.raw
    given = {_UNREADABLE: call_form(choice, call)["function"]["arguments"]} if raw else dict(call.safe().arguments)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


class _Events(Stream):
    """The events of an answer: each block is opened, filled and closed."""

    def __init__(self, model: str) -> None:
        self._model, self._turn_id, self._block, self._is_open = model, "", 0, False

    def begin(self, turn_id: str) -> list[bytes]:
        self._turn_id = turn_id
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = {**_head(turn_id, self._model), "content": [], "stop_reason": None, "usage": usage}
        return [self._event("message_start", message=message)]

    def piece(self, delta: Mapping[str, Any]) -> list[bytes]:
        sent: list[bytes] = []
        if "reasoning_content" in delta:
            thought = {"type": "thinking", "thinking": "", "signature": ""}
            parts = {"thinking": delta["reasoning_content"], "signature": f"sig_{self._turn_id}"}
            sent += self._whole_block(thought, [{"type": f"{k}_delta", k: text} for k, text in parts.items()])
        if delta.get("content"):
            sent += [] if self._is_open else [self._opened({"type": "text", "text": ""})]
            sent.append(self._filled({"type": "text_delta", "text": delta["content"]}))
        return sent

    def end(self, answered: Answered) -> list[bytes]:
        choice = answered.answer.choices[0]
        sent = [self._closed()] if self._is_open else []
        if not sent and not choice.action.tool_calls:
            sent += self._whole_block({"type": "text", "text": ""}, [])
        for call in choice.action.tool_calls:
            use = _use(choice, call)
            part = {"type": "input_json_delta", "partial_json": json.dumps(use["input"])}
            sent += self._whole_block({**use, "input": {}}, [part])
        delta = {"stop_reason": _stop(choice), "stop_sequence": None}
        return [*sent, self._event("message_delta", delta=delta, usage=_usage(answered)), self._event("message_stop")]

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, **fields}, kind)

    def _opened(self, block: Mapping[str, Any]) -> bytes:
        self._is_open = True
        return self._event("content_block_start", index=self._block, content_block=block)

    def _filled(self, delta: Mapping[str, Any]) -> bytes:
        return self._event("content_block_delta", index=self._block, delta=delta)

    def _closed(self) -> bytes:
        self._is_open, self._block = False, self._block + 1
        return self._event("content_block_stop", index=self._block - 1)

    def _whole_block(self, block: Mapping[str, Any], deltas: Sequence[Mapping[str, Any]]) -> list[bytes]:
        return [self._opened(block), *(self._filled(delta) for delta in deltas), self._closed()]
