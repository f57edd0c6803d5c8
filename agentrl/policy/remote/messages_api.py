"""The Anthropic Messages API: system texts apart, tools as blocks, thinking with its signatures.

A turn that holds thinking goes back block by block as the server wrote it: an edited block is refused. Written against
anthropic 2.14 (`anthropic.types`). The newest version of the API refuses temperature, top_p and top_k at any value, so
these are sent only where they differ from 1, 1 and 0, with the version before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.remote.dialect import Asked, Dialect, with_extra
from agentrl.policy.remote.errors import ServerError, error_of_object
from agentrl.policy.remote.history import NO_TEXT, safe_messages
from agentrl.policy.remote.options import ChatOptions
from agentrl.policy.remote.reading import (
    ResponseError,
    Spoken,
    action_of,
    call_of,
    counts_of,
    detail,
    finish_of,
    joined,
)

VERSION, VERSION_WITH_SAMPLING = "2026-10-21", "2023-06-01"
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k")
_VERSION_HEADER = "anthropic-version"
_GOOD_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_PLAIN_BLOCKS = ("text", "tool_use")
_CUT_OFF = "the turn was cut off, so its last call may be incomplete"


class MessagesApi(Dialect):
    """`POST /v1/messages`."""

    kind = "anthropic"
    unsupported = ("return_token_ids", "max_tokens_field")

    def headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key} if key else {}

    def request_headers(self, body: Mapping[str, Any], options: ChatOptions) -> dict[str, str]:
        if any(name.lower() == _VERSION_HEADER for name in options.headers):
            return {}
        return {_VERSION_HEADER: VERSION_WITH_SAMPLING if body.keys() & set(_SAMPLING_FIELDS) else VERSION}

    def body(self, model: str, asked: Asked, options: ChatOptions) -> dict[str, Any]:
        sampling = asked.sampling
        messages = safe_messages(asked.messages, asked.tools, _GOOD_ID)
        first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": sampling.max_tokens,
            "system": "\n\n".join(message.content for message in messages[:first]) or None,
            "messages": _turns(messages[first:], with_thinking=options.send_reasoning),
            "temperature": sampling.temperature if sampling.temperature != 1 else None,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "top_k": sampling.top_k or None,
            "stop_sequences": list(sampling.stop) or None,
        }
        if asked.tools:
            body["tools"] = [_tool(tool) for tool in asked.tools]
            body["tool_choice"] = _choice(options)
        return with_extra(body, options)

    def action(self, reply: Mapping[str, Any], asked: Asked, options: ChatOptions) -> Action:
        try:
            return action_of(_spoken(reply))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ResponseError(f"no readable content in {reply!r}") from error

    def error_inside(self, reply: Any) -> ServerError | None:
        error = reply.get("error") if isinstance(reply, Mapping) else None
        return error_of_object(error) if error else None


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    described = {"description": function["description"]} if function.get("description") else {}
    return {"name": function.get("name"), **described, "input_schema": schema}


def _choice(options: ChatOptions) -> dict[str, Any] | None:
    """The tool choice in this API's words; it also holds whether calls may be parallel."""
    given, parallel = options.tool_choice, options.parallel_tool_calls
    if given is None and parallel is None:
        return None
    choice: dict[str, Any]
    if isinstance(given, Mapping):
        function = given.get("function")
        choice = {"type": "tool", "name": function.get("name")} if isinstance(function, Mapping) else dict(given)
    else:
        choice = {"type": _CHOICES.get(given or "auto", given)}
    return (
        choice
        if parallel is None or choice["type"] == "none"
        else {**choice, "disable_parallel_tool_use": not parallel}
    )


def _turns(messages: Sequence[Message], *, with_thinking: bool) -> list[dict[str, Any]]:
    """The conversation as turns of user and assistant, one after the other; the first is the user's."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            if not turns and role == "assistant":
                turns.append({"role": "user", "content": [_text(NO_TEXT)]})
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _blocks(message, with_thinking=with_thinking)
    for turn in turns:
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")  # results come first, or are refused
    return turns or [{"role": "user", "content": [_text(NO_TEXT)]}]


def _blocks(message: Message, *, with_thinking: bool) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.content}]
    own = _own_blocks(message) if with_thinking else None
    if own is not None:
        return own
    said = [_text(message.content)] if message.content.strip() else []
    return [*said, *map(_use, message.tool_calls)] or [_text(NO_TEXT)]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}


def _own_blocks(message: Message) -> list[dict[str, Any]] | None:
    """The turn as the server wrote it; None where it wrote it for somebody else, or the turn was changed since.

    A call whose name, id or input no server would accept is replaced.
    """
    blocks = message.blocks
    if not blocks or any(block.get("type") in ("reasoning", "message", "function_call") for block in blocks):
        return None
    num_calls = sum(block.get("type") == "tool_use" for block in blocks)
    if num_calls != len(message.tool_calls) or joined(blocks, text="text") != message.content.replace(NO_TEXT, ""):
        return None
    calls = iter(message.tool_calls)
    return [_own_use(block, next(calls)) if block.get("type") == "tool_use" else dict(block) for block in blocks]


def _own_use(block: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
    same = (block.get("id"), block.get("name"), None) == (call.id, call.name, call.error)
    return dict(block) if same else _use(call)


def _spoken(reply: Mapping[str, Any]) -> Spoken:
    blocks = reply["content"]
    uses = [block for block in blocks if block["type"] == "tool_use"]
    calls = [call_of(u.get("name"), u.get("input"), str(u.get("id") or f"call_{i}")) for i, u in enumerate(uses)]
    finish = finish_of(reply.get("stop_reason"))
    if finish == "length" and calls and blocks[-1]["type"] == "tool_use" and calls[-1].error is None:
        calls[-1] = ToolCall(calls[-1].name, calls[-1].arguments, calls[-1].id, _CUT_OFF)
    thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking" and block.get("thinking")]
    return Spoken(
        text=joined(blocks, text="text"),
        calls=tuple(calls),
        reasoning="\n\n".join(thoughts) or None,
        reason=reply.get("stop_reason"),
        finish=finish,
        usage=_usage_of(reply.get("usage")),
        model=reply.get("model"),
        blocks=tuple(blocks) if any(block["type"] not in _PLAIN_BLOCKS for block in blocks) else (),
    )


def _usage_of(usage: Any) -> dict[str, int] | None:
    """Tokens; those that were read from a cache or written to it are not among this API's `input_tokens`."""
    if not isinstance(usage, Mapping):
        return None
    read, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    given = usage.get("input_tokens")
    return counts_of(
        prompt_tokens=given + (read or 0) + (written or 0) if isinstance(given, int) else None,
        completion_tokens=usage.get("output_tokens"),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=detail(usage, "output_tokens_details", "thinking_tokens"),
    )
