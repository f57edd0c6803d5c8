"""OpenAI's Chat Completions. The forms of answers are those of `agentrl serve-model`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentrl.policy.base import SamplingParams
from agentrl.serving.answer_forms import Head, chunk, completion, last_chunks, usage_chunk
from agentrl.serving.capture.dialects.base import Answered, Dialect, Stream, as_list, asked, event, limited
from agentrl.serving.chat_request import ChatRequest


class Chat(Dialect):
    """`POST /chat/completions`."""

    def read(self, body: Mapping[str, Any], sampling: SamplingParams) -> ChatRequest:
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        messages, tools = as_list(body.get("messages"), "messages"), as_list(body.get("tools"), "tools")
        found = asked(body, messages, tools, limited(sampling, most, body.get("stop")))
        options = body.get("stream_options")
        return replace(found, include_usage=isinstance(options, dict) and bool(options.get("include_usage")))

    def whole(self, answered: Answered) -> dict[str, Any]:
        head = Head(f"chatcmpl-{answered.id}", answered.created, answered.model)
        return completion(head, answered.request, answered.answer, [[]])

    def stream(self, model: str) -> Stream:
        return _ChatStream(model)


class _ChatStream(Stream):
    def __init__(self, model: str) -> None:
        self._head = Head("", int(time.time()), model)

    def begin(self, turn_id: str) -> list[bytes]:
        self._head = replace(self._head, id=f"chatcmpl-{turn_id}")
        return [event(chunk(self._head, 0, {"role": "assistant", "content": ""}))]

    def piece(self, delta: Mapping[str, Any]) -> list[bytes]:
        return [event(chunk(self._head, 0, delta))]

    def end(self, answered: Answered) -> list[bytes]:
        found = last_chunks(self._head, 0, answered.answer.choices[0])
        if answered.request.include_usage:
            found.append(usage_chunk(self._head, answered.answer))
        return [*map(event, found), b"data: [DONE]\n\n"]
