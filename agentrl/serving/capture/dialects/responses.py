"""OpenAI's Responses: items in place of messages. State on the server (`previous_response_id`) is not offered.

Written against openai 3.57 (`openai.types.responses`). Tools that the API itself would run are not shown to the model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl.policy.base import SamplingParams
from agentrl.serving.answer_forms import call_form
from agentrl.serving.api_errors import ApiError
from agentrl.serving.capture.dialects.base import Answered, Dialect, Stream, as_list, asked, event, limited, texts
from agentrl.serving.chat_request import ChatRequest

_TEXTS = ("input_text", "output_text", "text", "refusal")


class Responses(Dialect):
    """`POST /responses`."""

    def read(self, body: Mapping[str, Any], sampling: SamplingParams) -> ChatRequest:
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else as_list(given, "input")
        told = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
        tools = list(_tools(as_list(body.get("tools"), "tools")))
        return asked(body, [*told, *_messages(items)], tools, limited(sampling, body.get("max_output_tokens"), None))

    def whole(self, answered: Answered) -> dict[str, Any]:
        return _response(answered.id, answered.model, answered.created, answered)

    def stream(self, model: str) -> Stream:
        return _Events(model)


def _tools(tools: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Functions in chat form, those inside of a namespace included."""
    for tool in tools:
        if tool.get("type") == "namespace":
            yield from _tools(as_list(tool.get("tools"), "tools"))
        elif tool.get("type") == "function":
            kept = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
            yield {"type": "function", "function": kept}


def _messages(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items in chat form; the items of one turn of the model become one message."""
    found: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call_output":
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _text(item.get("output"))})
        elif kind == "message" and item.get("role") != "assistant":
            found.append({"role": item.get("role"), "content": _text(item.get("content"))})
        elif kind in ("message", "function_call", "reasoning"):
            if not found or found[-1]["role"] != "assistant":
                found.append({"role": "assistant", "content": "", "tool_calls": []})
            _add(found[-1], item, kind)
        else:
            raise ApiError(f"an item of type {kind!r} is not offered here: send messages and function calls")
    return [message for message in found if message != {"role": "assistant", "content": "", "tool_calls": []}]


def _add(message: dict[str, Any], item: Mapping[str, Any], kind: str) -> None:
    """Add an item to the model's turn that it is a part of."""
    if kind == "message":
        message["content"] += _text(item.get("content"))
        message.setdefault("signature", str(item.get("id") or ""))
    elif kind == "reasoning":
        message["signature"] = str(item.get("encrypted_content") or item.get("id") or "")
    else:
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        message["tool_calls"].append({"id": item.get("call_id"), "type": "function", "function": function})


def _text(content: Any) -> str:
    """The text of a content or of a tool's output. Raises: ApiError for a part that is no text."""
    return "".join(texts(content, _TEXTS))


# Answers.


def _response(turn_id: str, model: str, created: int, answered: Answered | None) -> dict[str, Any]:
    """The object of an answer; before its end there is no output."""
    finish = answered.answer.choices[0].action.finish_reason if answered else None
    status = "in_progress" if answered is None else "incomplete" if finish == "length" else "completed"
    return {
        "id": f"resp_{turn_id}",
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if finish == "length" else None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": _output(answered) if answered else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _usage(answered) if answered else None,
    }


def _output(answered: Answered) -> list[dict[str, Any]]:
    """The items of a turn: the thought, the text, the calls."""
    choice = answered.answer.choices[0]
    action, found = choice.action, []
    if action.reasoning is not None:
        found.append(_thought(answered.id, action.reasoning))
    if action.text or not action.tool_calls:
        found.append(_said(answered.id, action.text))
    for number, call in enumerate(action.tool_calls):
        function = call_form(choice, call)["function"]
        item = {"type": "function_call", "id": f"fc_{answered.id}{number}", "call_id": call.id, **function}
        found.append({**item, "status": "completed"})
    return found


def _thought(turn_id: str, text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"type": "reasoning", "id": f"rs_{turn_id}", "summary": summary, "encrypted_content": f"rs_{turn_id}"}


def _said(turn_id: str, text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"type": "message", "id": f"msg_{turn_id}", "role": "assistant", "status": "completed"}
    return {**item, "content": [part]}


def _usage(answered: Answered) -> dict[str, Any]:
    prompt, cached, sampled = answered.usage
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": sampled,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + sampled,
    }


class _Events(Stream):
    """The events of an answer; every item is announced, filled and closed."""

    def __init__(self, model: str) -> None:
        self._model, self._created = model, int(time.time())
        self._turn_id, self._number, self._item, self._text = "", 0, 0, ""
        self._is_open = False

    def begin(self, turn_id: str) -> list[bytes]:
        self._turn_id = turn_id
        empty = _response(turn_id, self._model, self._created, None)
        return [self._event(kind, response=empty) for kind in ("response.created", "response.in_progress")]

    def piece(self, delta: Mapping[str, Any]) -> list[bytes]:
        thoughts = [delta["reasoning_content"]] if "reasoning_content" in delta else []
        sent = [part for text in thoughts for part in self._whole_item(_thought(self._turn_id, text), {})]
        return [*sent, *(self._more_text(delta["content"]) if delta.get("content") else [])]

    def end(self, answered: Answered) -> list[bytes]:
        action, sent = answered.answer.choices[0].action, []
        if self._is_open or not action.tool_calls:
            sent += self._closed_text()
        for item in _output(answered):
            if item["type"] == "function_call":
                sent += self._whole_item(item, {"arguments": "", "status": "in_progress"})
        final = _response(answered.id, self._model, self._created, answered)
        return [*sent, self._event(f"response.{final['status']}", response=final)]

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **fields}, kind)

    def _whole_item(self, item: Mapping[str, Any], empty: Mapping[str, Any]) -> list[bytes]:
        """A thought, or a call with its arguments. Args: empty: what differs when it is announced."""
        place, kind = {"output_index": self._item}, "response.function_call_arguments"
        sent = [self._event("response.output_item.added", **place, item={**item, **empty})]
        if "arguments" in item:
            about, arguments = {**place, "item_id": item["id"]}, item["arguments"]
            sent.append(self._event(f"{kind}.delta", **about, delta=arguments))
            sent.append(self._event(f"{kind}.done", **about, arguments=arguments, name=item["name"]))
        self._item += 1
        return [*sent, self._event("response.output_item.done", **place, item=item)]

    def _more_text(self, text: str) -> list[bytes]:
        sent = [] if self._is_open else self._opened_text()
        self._text += text
        return [*sent, self._event("response.output_text.delta", **self._part(), delta=text, logprobs=[])]

    def _opened_text(self) -> list[bytes]:
        self._is_open = True
        item = {**_said(self._turn_id, ""), "status": "in_progress", "content": []}
        part = _said(self._turn_id, "")["content"][0]
        return [
            self._event("response.output_item.added", output_index=self._item, item=item),
            self._event("response.content_part.added", **self._part(), part=part),
        ]

    def _closed_text(self) -> list[bytes]:
        sent = [] if self._is_open else self._opened_text()
        item = _said(self._turn_id, self._text)
        sent += [
            self._event("response.output_text.done", **self._part(), text=self._text, logprobs=[]),
            self._event("response.content_part.done", **self._part(), part=item["content"][0]),
            self._event("response.output_item.done", output_index=self._item, item=item),
        ]
        self._item, self._is_open = self._item + 1, False
        return sent

    def _part(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._turn_id}", "output_index": self._item, "content_index": 0}
