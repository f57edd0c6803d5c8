"""The conversation vocabulary: messages, tool calls and actions. Owns the OpenAI chat form.

Rendering messages to token ids belongs to the policy (`agentrl.policy.format`), not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "abort", "content_filter", "refused"]
_ROLES = get_args(Role)
_decode = json.JSONDecoder().decode


class ToolCall(Struct, frozen=True, omit_defaults=True):
    """One call that the model asks for.

    `error` says why the model's text could not be read as a call. Such a call is never run, and the
    model is told the reason. `name` and `arguments` then hold the part that could be read.
    """

    name: str
    arguments: Mapping[str, Any] = {}
    id: str = "call_0"
    error: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The call in OpenAI chat form; `arguments` is a JSON string there."""
        arguments = json.dumps(dict(self.arguments), ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}

    @classmethod
    def from_openai(cls, call: Mapping[str, Any], index: int = 0) -> ToolCall:
        """Read one entry of `message.tool_calls`; unreadable arguments set `error`."""
        function = call.get("function") or {}
        name, raw = function.get("name") or "", function.get("arguments")
        call_id = call.get("id") or f"call_{index}"
        if type(name) is not str or type(call_id) is not str:
            name, call_id = str(name), str(call_id)
        if raw is None or raw == "":
            return cls(name, {}, call_id)
        try:
            arguments = _decode(raw) if isinstance(raw, str) else raw
        except ValueError as error:
            return cls(name, {}, call_id, f"arguments are not valid JSON: {error}")
        if type(arguments) is dict:
            return cls(name, arguments if isinstance(raw, str) else dict(arguments), call_id)
        if not isinstance(arguments, Mapping):
            return cls(name, {}, call_id, f"arguments must be a JSON object, got {type(arguments).__name__}")
        return cls(name, dict(arguments), call_id)


class Message(Struct, frozen=True, omit_defaults=True):
    """One message of a conversation, in OpenAI chat terms.

    Only `tool` messages have `tool_call_id` and `name`. `reasoning` is the assistant's thinking, which
    is not part of `content`.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The message as an OpenAI chat dictionary, without empty fields."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            message["name"] = self.name
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        return message

    @classmethod
    def from_openai(cls, message: Mapping[str, Any]) -> Message:
        """Read an OpenAI chat dictionary.

        Raises: ValueError if the role is not one of system, user, assistant, tool.
        """
        role: Any = message.get("role")
        if role not in _ROLES:
            raise ValueError(f"message role must be system, user, assistant or tool, got {role!r}")
        return cls(
            role=role,
            content=_text(message.get("content")),
            tool_calls=_calls(message.get("tool_calls")),
            tool_call_id=message.get("tool_call_id"),
            name=message.get("name"),
            reasoning=message.get("reasoning_content"),
        )


def _calls(entries: Sequence[Mapping[str, Any]] | None) -> tuple[ToolCall, ...]:
    if not entries:
        return ()
    return tuple([ToolCall.from_openai(entry, index) for index, entry in enumerate(entries)])


def _text(content: Any) -> str:
    """The text of an OpenAI message or of its parts; a part that is not text is an error."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    texts = []
    for part in content:
        if part.get("type") != "text":
            raise ValueError(f"only text content is supported, got a part of type {part.get('type')!r}")
        texts.append(part["text"])
    return "".join(texts)


class Action(Struct, frozen=True, omit_defaults=True):
    """One assistant turn, as a policy returns it and an environment receives it.

    Attributes:
        text: what the model said, without tool calls and thinking.
        tool_calls: the calls it asks for, in order.
        reasoning: its thinking, if the format keeps one.
        prompt_ids: (P,) ids of the whole context the model saw; None where the policy has no tokens.
        token_ids: (T,) sampled ids, stop token included; immutable, never re-tokenised.
        logprobs: (T,) log-probability in nats of each sampled id under the sampling distribution.
        versions: (T,) number of the weights that sampled each id.
        finish_reason: `length` where the token limit cut the turn off; `content_filter` where a filter withheld it;
            `refused` where the server refuses the conversation for what the model said in it. The last two end the
            episode as a failure. `abort` is the server's doing, and discards it.
        usage: tokens as the policy counts them: `prompt_tokens`, `completion_tokens`, `cached_tokens`.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    versions: tuple[int, ...] | None = None
    finish_reason: FinishReason = "stop"
    usage: Mapping[str, int] | None = None

    @classmethod
    def of(cls, action: Action | str | Mapping[str, Any]) -> Action:
        """Accept what users write: an `Action`, plain text, or an OpenAI assistant message."""
        if isinstance(action, Action):
            return action
        if isinstance(action, str):
            return cls(text=action)
        if type(action) is dict or isinstance(action, Mapping):
            role = action.get("role", "assistant")
            if role not in _ROLES:
                raise ValueError(f"message role must be system, user, assistant or tool, got {role!r}")
            text, calls = _text(action.get("content")), _calls(action.get("tool_calls"))
            return cls(text, calls, action.get("reasoning_content"))
        raise TypeError(f"an action is an Action, a str or an OpenAI assistant message, got {type(action).__name__}")

    def to_message(self) -> Message:
        """This action as an assistant message of the conversation."""
        return Message("assistant", self.text, self.tool_calls, None, None, self.reasoning)


Conversation = Sequence[Message]
