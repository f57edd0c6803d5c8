"""Answers in OpenAI's form, whole and in pieces, as pure functions. Owns the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.messages import ToolCall
from agentrl.serving.chat_model import Answer, Choice
from agentrl.serving.chat_request import ChatRequest


@dataclass(frozen=True)
class Head:
    """What all parts of an answer share.

    Attributes:
        id: of the answer.
        created: seconds since 1970.
        model: its name.
    """

    id: str
    created: int
    model: str

    def fields(self, kind: str) -> dict[str, Any]:
        """The first fields of a part."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True)
class Token:
    """A sampled token: its text, and its log-probability under the sampling distribution, in nats."""

    text: str
    logprob: float


def completion(head: Head, request: ChatRequest, answer: Answer, tokens: Sequence[Sequence[Token]]) -> dict[str, Any]:
    """The whole answer. Args: tokens: of each choice."""
    choices = []
    for number, (choice, sampled) in enumerate(zip(answer.choices, tokens, strict=True)):
        entry: dict[str, Any] = {
            "index": number,
            "message": _message(choice),
            "logprobs": logprobs(sampled) if request.logprobs else None,
            "finish_reason": choice.action.finish_reason,
        }
        choices.append(entry | ({"token_ids": list(choice.done.ids)} if request.token_ids else {}))
    ids = {"prompt_token_ids": list(answer.prompt)} if request.token_ids else {}
    return {**head.fields("chat.completion"), "choices": choices, "usage": answer.usage(), **ids}


def chunk(
    head: Head, number: int, delta: Mapping[str, Any], *, finish: str | None = None, **further: Any
) -> dict[str, Any]:
    """A piece of one choice."""
    choice = {"index": number, "delta": dict(delta), "finish_reason": finish, **further}
    return {**head.fields("chat.completion.chunk"), "choices": [choice]}


def last_chunks(head: Head, number: int, choice: Choice, **further: Any) -> list[dict[str, Any]]:
    """The calls of one choice, and why it ended. Args: further: fields of the last piece."""
    calls = [{"index": index, **call_form(choice, call)} for index, call in enumerate(choice.action.tool_calls)]
    found = [chunk(head, number, {"tool_calls": [call]}) for call in calls]
    return [*found, chunk(head, number, {}, finish=choice.action.finish_reason, **further)]


def usage_chunk(head: Head, answer: Answer) -> dict[str, Any]:
    """The last piece, where the request asks for the counts."""
    return {**head.fields("chat.completion.chunk"), "choices": [], "usage": answer.usage()}


def _message(choice: Choice) -> dict[str, Any]:
    action = choice.action
    message: dict[str, Any] = {"role": "assistant", "content": action.text or (None if action.tool_calls else "")}
    if action.reasoning is not None:
        message["reasoning_content"] = action.reasoning
    if action.tool_calls:
        message["tool_calls"] = [call_form(choice, call) for call in action.tool_calls]
    return message


def call_form(choice: Choice, call: ToolCall) -> dict[str, Any]:
    """A call; the arguments of one that cannot be read are the model's own text, which is no JSON."""
    form = call.to_openai()
    return (
        form
        if call.id not in choice.raw
        else {**form, "function": {**form["function"], "arguments": _no_json(choice, call)}}
    )


def _no_json(choice: Choice, call: ToolCall) -> str:
    return f"{choice.raw[call.id]} (this call cannot be read: {call.error})"


def logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """Log-probabilities of sampled tokens; no others are known."""
    entries = [
        {
            "token": token.text,
            "logprob": token.logprob,
            # A token may hold part of a character.
            "bytes": None if "\ufffd" in token.text else list(token.text.encode("utf-8", "replace")),
            "top_logprobs": [],
        }
        for token in tokens
    ]
    return {"content": entries, "refusal": None}
