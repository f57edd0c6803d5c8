"""What a dialect is, and what all of them refuse. Owns no fields of an API.

A new API is a new file with a subclass of `Dialect`, and a line in `app`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from agentrl.messages import Message
from agentrl.policy.base import SamplingParams
from agentrl.serving.api_errors import ApiError
from agentrl.serving.chat_model import Answer
from agentrl.serving.chat_request import ChatRequest, read_messages, read_tool

# What would change the answer in a way that is not offered -> the values that change nothing.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
}


@dataclass(frozen=True)
class Answered:
    """A turn to be sent.

    Attributes:
        id: of the turn.
        model: the name that the client asked for.
        created: seconds since 1970.
        request: that it answers.
        answer: the turn, with the ids of its prompt.
    """

    id: str
    model: str
    created: int
    request: ChatRequest
    answer: Answer

    @property
    def usage(self) -> tuple[int, int, int]:
        """Tokens of the prompt, of those the cached ones, and sampled tokens."""
        done = self.answer.choices[0].done
        return len(self.answer.prompt), done.cached, len(done.ids)


class Stream(ABC):
    """One answer in pieces."""

    @abstractmethod
    def begin(self, turn_id: str) -> list[bytes]:
        """What is sent before the model has said anything. Args: turn_id: names the turn."""

    @abstractmethod
    def piece(self, delta: Mapping[str, Any]) -> list[bytes]:
        """A piece of the turn. Args: delta: `content`, `reasoning_content` or both."""

    @abstractmethod
    def end(self, answered: Answered) -> list[bytes]:
        """The calls of the turn, why it ended, and what it cost."""


class Dialect(ABC):
    """One API."""

    ping = b": ping\n\n"

    @abstractmethod
    def read(self, body: Mapping[str, Any], sampling: SamplingParams) -> ChatRequest:
        """The request in a body. Args: sampling: of the session. Raises: ApiError."""

    @abstractmethod
    def whole(self, answered: Answered) -> dict[str, Any]:
        """The answer in one piece."""

    @abstractmethod
    def stream(self, model: str) -> Stream:
        """The answer in pieces. Args: model: the name that the client asked for."""

    def refused(self, error: ApiError) -> dict[str, Any]:
        """The body of an error."""
        return error.to_json()


def asked(
    body: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    limits: SamplingParams,
) -> ChatRequest:
    """The request of a body whose conversation and tools are in chat form.

    Args: messages: a turn of the model may have a `signature` that we gave it.
    Raises: ApiError for what is not offered.
    """
    for name, neutral in _REFUSED.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise ApiError(
                f"{name} = {value!r} is not offered here: send the whole conversation and ask for one answer",
                param=name,
                code="unsupported",
            )
    if not messages:
        raise ApiError("there are no messages: send the conversation", param="messages")
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    signatures = [str(message.get("signature") or "") for message in messages]
    return ChatRequest(
        messages=tuple(map(_signed, read_messages(messages), signatures)),
        tools=[read_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)],
        calls=bool(tools) and kind != "none",
        sampling=limits,
        stream=_flag(body, "stream"),
    )


def _signed(message: Message, signature: str) -> Message:
    """A turn with the signature that came back with it, which names it."""
    return structs.replace(message, blocks=({"signature": signature},)) if signature else message


def limited(sampling: SamplingParams, max_tokens: Any, stop: Any) -> SamplingParams:
    """The session's sampling with what a client may change: fewer tokens, and stop strings. Raises: ApiError.

    Temperature and the like stay the session's: what is recorded must be what the learner expects.
    """
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise ApiError(f"the most tokens of an answer must be a whole number from 1 on, got {max_tokens!r}")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or any(not isinstance(text, str) or not text for text in stops):
        raise ApiError("stop must be a text or a list of texts, none of them empty", param="stop")
    most = sampling.max_tokens if max_tokens is None else min(max_tokens, sampling.max_tokens)
    return replace(sampling, max_tokens=most, stop=tuple(stops))


def as_list(value: Any, name: str) -> list[Any]:
    """A list of objects of a body; None is an empty one. Raises: ApiError."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ApiError(f"{name} must be a list of objects", param=name)
    return value


def texts(content: Any, kinds: Collection[str]) -> list[str]:
    """The texts of a content. Args: kinds: of parts that are texts. Raises: ApiError for a part of another kind."""
    if content is None or isinstance(content, str):
        return [content] if content else []
    for part in as_list(content, "content"):
        if part.get("type") not in kinds:
            raise ApiError(f"only text is supported, got a part of type {part.get('type')!r}")
    return [str(part.get("text") or part.get("refusal") or "") for part in content]


def event(value: Mapping[str, Any], name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(value).encode() + b"\n\n"


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(f"{name} must be true or false, got {value!r}", param=name)
    return bool(value)
