"""The conversation vocabulary: messages, tool calls and actions. Owns the OpenAI chat form.

Rendering messages to token ids belongs to the policy (`agentrl.policy.format`), not here. What a model or a server
wrote is made safe here: no text holds half of a character, and every call can be written as JSON.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from msgspec import Struct, structs
from msgspec.json import Decoder

from agentrl.safe_json import made_safe, problem_of, safe_text

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "abort", "content_filter", "refused"]
_ROLES = get_args(Role)
_TURN_KEYS = frozenset(("role", "content", "tool_calls", "reasoning_content"))
_decode_object = Decoder(dict[str, Any]).decode
_decode_any = json.JSONDecoder().decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_encode_any = json.JSONEncoder(
    ensure_ascii=False, skipkeys=True, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
).encode


class ToolCall(Struct, frozen=True, omit_defaults=True, gc=False):
    """One call that the model asks for.

    `error` says why the model's text could not be read as a call. Such a call is never run, and the
    model is told the reason. `name` and `arguments` then hold the part that could be read.
    """

    name: str
    arguments: Mapping[str, Any] = {}
    id: str = "call_0"
    error: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The call in OpenAI chat form; `arguments` is a JSON string there, made safe if they are not."""
        call = self.safe()
        try:
            arguments = _encode(dict(call.arguments))
        except (TypeError, ValueError):  # objects that a model cannot write, such as numpy's numbers
            arguments = _encode_any(dict(call.arguments))
        function = {"name": call.name, "arguments": arguments}
        return {"id": call.id, "type": "function", "function": function}

    @classmethod
    def from_openai(cls, call: Mapping[str, Any], index: int = 0) -> ToolCall:
        """Read one entry of `message.tool_calls`; what cannot be read or is not safe sets `error`."""
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict:
            if not isinstance(call, Mapping) or not isinstance(call.get("function") or {}, Mapping):
                return cls("", {}, f"call_{index}", "a call must be an object with a `function`")
            function = call.get("function") or {}
        name, call_id = function.get("name"), call.get("id")
        if type(name) is not str or not name.isascii():
            name = _word(name, "")
        if type(call_id) is not str or not call_id.isascii() or not call_id:
            call_id = _word(call_id, f"call_{index}")
        raw = function.get("arguments")
        if raw is None or raw == "":
            return cls(name, {}, call_id)
        try:
            arguments = _decode(raw) if isinstance(raw, str) else raw
        except ValueError as error:
            return cls(name, {}, call_id, f"arguments are not valid JSON: {error}")
        except RecursionError:
            return cls(name, {}, call_id, "arguments are nested too deeply: send flatter values")
        if type(arguments) is dict and arguments is not raw:
            return cls(name, arguments, call_id)
        if not isinstance(arguments, Mapping):
            return cls(name, {}, call_id, _no_object(arguments))
        return cls(name, dict(arguments), call_id)

    def safe(self) -> ToolCall:
        """The call itself if its name, id and arguments are safe to send and store, else a safe copy.

        The copy of a call with unsafe arguments has an `error` that tells the model, so it is never run.
        """
        name, call_id = self.name, self.id
        if (
            type(self.arguments) is dict
            and problem_of(self.arguments) is None
            and type(name) is type(call_id) is str
            and name.isascii()
            and call_id.isascii()
            and call_id
        ):
            return self
        arguments, error = self.arguments, self.error
        if not isinstance(arguments, Mapping):
            arguments, error = {}, error or _no_object(arguments)
        else:
            problem = problem_of(arguments)
            if problem is not None:
                arguments, error = made_safe(arguments), error or f"argument {problem}"
        name, call_id = _word(name, ""), _word(call_id, "call_0")
        if arguments is self.arguments and name is self.name and call_id is self.id:
            return self
        return ToolCall(name, arguments, call_id, error)


def _decode(text: str) -> Any:
    """The JSON value of a text. Raises: ValueError, RecursionError."""
    try:
        return _decode_object(text)
    except ValueError:  # also what only Python's decoder reads: NaN, half of a character
        return _decode_any(text)


def _word(value: Any, default: str) -> str:
    """A name or an id as text that can be encoded."""
    if type(value) is str:
        return safe_text(value) or default
    if isinstance(value, str):
        return safe_text(str.__str__(value)) or default
    # Not every integer: Python refuses to write one of thousands of digits.
    return str(value) if isinstance(value, (int, float)) and abs(value) < 1 << 64 else default


def _no_object(arguments: Any) -> str:
    return f"arguments must be a JSON object, got {type(arguments).__name__}"


class Message(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message of a conversation, in OpenAI chat terms.

    Only `tool` messages have `tool_call_id` and `name`. `reasoning` is the assistant's thinking, which
    is not part of `content`. `blocks` is an assistant's turn as its server wrote it (`Served.blocks`).
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    blocks: tuple[Mapping[str, Any], ...] = ()

    def to_openai(self) -> dict[str, Any]:
        """The message as an OpenAI chat dictionary, without empty fields."""
        message: dict[str, Any] = {"role": self.role, "content": safe_text(self.content)}
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = safe_text(self.tool_call_id)
        if self.name is not None:
            message["name"] = safe_text(self.name)
        if self.reasoning is not None:
            message["reasoning_content"] = safe_text(self.reasoning)
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
            tool_call_id=_optional(message.get("tool_call_id")),
            name=_optional(message.get("name")),
            reasoning=_optional(message.get("reasoning_content")),
        )


def _calls(entries: Sequence[Mapping[str, Any]] | None) -> tuple[ToolCall, ...]:
    if not entries:
        return ()
    if type(entries) is not list and (not isinstance(entries, Sequence) or isinstance(entries, str)):
        return (ToolCall("", {}, error=f"tool_calls must be a list, got {type(entries).__name__}"),)
    if len(entries) == 1:
        return (ToolCall.from_openai(entries[0]),)
    return tuple([ToolCall.from_openai(entry, index) for index, entry in enumerate(entries)])


def _optional(text: Any) -> str | None:
    return None if text is None else safe_text(text if isinstance(text, str) else str(text))


def _text(content: Any) -> str:
    """The text of an OpenAI message or of its parts; a part that is not text is an error."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content if type(content) is str and content.isascii() else safe_text(content)
    texts = []
    for part in content:
        if part.get("type") != "text":
            raise ValueError(f"only text content is supported, got a part of type {part.get('type')!r}")
        texts.append(part["text"])
    return safe_text("".join(texts))


class TokenSignals(Struct, frozen=True, omit_defaults=True, gc=False):
    """How sure a model was of each token that it sampled, at temperature 1 and without truncation.

    Attributes:
        texts: (T,) the text of each token; together they are the text of the turn, marks included.
        margins: (T,) probability of the token minus that of the most likely other one: p1 - p2 where it was the most
            likely token, negative where another one was.
        entropies: (T,) entropy of the distribution in nats; None where a server does not give it.
        uniform_kls: (T,) KL of the uniform distribution from it, KL(U || p), in nats; None as above.
    """

    texts: tuple[str, ...]
    margins: tuple[float, ...]
    entropies: tuple[float, ...] | None = None
    uniform_kls: tuple[float, ...] | None = None


class Served(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a server's reply says about a turn, in addition to the turn.

    Attributes:
        model: the model's own name in the reply; empty where the reply names none.
        latency_s: seconds from sending the request that was answered to the last byte of the answer. Waiting for a
            place, and tries that failed, are not in it.
        blocks: the turn in the form of the server's own API, where it holds what only that server can read (encrypted
            thoughts, signatures). It goes back to the server untouched.
    """

    model: str = ""
    latency_s: float | None = None
    blocks: tuple[Mapping[str, Any], ...] = ()


class Action(Struct, frozen=True, omit_defaults=True, gc=False):
    """One assistant turn, as a policy returns it and an environment receives it.

    Attributes:
        text: what the model said, without tool calls and thinking.
        tool_calls: the calls it asks for, in order.
        reasoning: its thinking, if the format keeps one.
        prompt_ids: (P,) ids of the whole context the model saw; None where the policy has no tokens. The turns
            of an episode share them (`TokenIds`).
        token_ids: (T,) sampled ids, stop token included; immutable, never re-tokenised.
        logprobs: (T,) log-probability in nats of each sampled id under the sampling distribution.
        versions: (T,) number of the weights that sampled each id.
        finish_reason: `length` where the token limit cut the turn off; `content_filter` where a filter withheld it;
            `refused` where the server refuses the conversation for what the model said in it. The last two end the
            episode as a failure. `abort` is the server's doing, and discards it.
        usage: tokens as the policy counts them: `prompt_tokens` (of which `cached_tokens` were read before and
            `cache_write_tokens` are kept for later) and `completion_tokens` (of which `reasoning_tokens` are thinking).
        signals: how sure the model was of each sampled id; None where that was not asked for.
        served: what a server's reply says about the turn; None where there is no server.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    prompt_ids: Sequence[int] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    versions: tuple[int, ...] | None = None
    finish_reason: FinishReason = "stop"
    usage: Mapping[str, int] | None = None
    signals: TokenSignals | None = None
    served: Served | None = None

    @classmethod
    def of(cls, action: Action | str | Mapping[str, Any]) -> Action:
        """Accept what users write: an `Action`, plain text, or an OpenAI assistant message."""
        if isinstance(action, Action):
            return action
        if isinstance(action, str):
            return cls(text=safe_text(action))
        if type(action) is dict or isinstance(action, Mapping):
            role = action.get("role", "assistant")
            if role not in _ROLES:
                raise ValueError(f"message role must be system, user, assistant or tool, got {role!r}")
            if not _TURN_KEYS & action.keys():
                raise TypeError(f"an assistant message has content or tool_calls, got keys {sorted(map(str, action))}")
            entries, reasoning = action.get("tool_calls"), action.get("reasoning_content")
            calls = _calls(entries) if entries else ()
            return cls(_text(action.get("content")), calls, None if reasoning is None else _optional(reasoning))
        raise TypeError(f"an action is an Action, a str or an OpenAI assistant message, got {type(action).__name__}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Records leave out a default by its identity, which a text loses on its way to another process."""
        return _unpickled, (type(self), structs.asdict(self))

    def safe(self) -> Action:
        """The action itself if it is safe to send and store, else a safe copy; token ids stay as they are.

        Texts get U+FFFD for half of a character, unsafe calls become calls with an `error`, and ids that occur twice
        in the turn are made different.
        """
        if self.reasoning is None and type(self.text) is str and self.text.isascii():
            calls = self.tool_calls
            if not calls or (len(calls) == 1 and calls[0].safe() is calls[0]):
                return self
        text, reasoning = safe_text(self.text or ""), self.reasoning and safe_text(self.reasoning)
        calls = self.tool_calls
        if calls:
            safe = [call.safe() for call in calls]
            if len(calls) > 1:
                _tell_apart(safe)
            if any(map(operator.is_not, safe, calls)):
                calls = tuple(safe)
        if text is self.text and reasoning is self.reasoning and calls is self.tool_calls:
            return self
        return structs.replace(self, text=text, reasoning=reasoning, tool_calls=calls)

    def to_message(self) -> Message:
        """This action as an assistant message of the conversation."""
        blocks = () if self.served is None else self.served.blocks
        return Message("assistant", self.text, self.tool_calls, None, None, self.reasoning, blocks)


def _unpickled(kind: type[Any], fields: dict[str, Any]) -> Any:
    """A copy from another process, whose `finish_reason` is the default itself again where it equals that."""
    return kind(**{**fields, "finish_reason": sys.intern(fields["finish_reason"])})


def _tell_apart(calls: list[ToolCall]) -> None:
    """Give each call of a turn an id of its own; an id's first call keeps it."""
    taken: set[str] = {call.id for call in calls}
    if len(taken) == len(calls):
        return
    seen: set[str] = set()
    for index, call in enumerate(calls):
        if call.id in seen:
            name = f"{call.id}_{index}"
            while name in taken:
                name += "_"
            call = calls[index] = structs.replace(call, id=name)
            taken.add(name)
        seen.add(call.id)


Conversation = Sequence[Message]
