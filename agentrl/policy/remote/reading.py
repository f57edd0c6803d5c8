"""What replies of all APIs have in common: why a turn ended, calls that cannot be read, tokens, secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import structs

from agentrl.messages import Action, Served, ToolCall
from agentrl.policy.strict_json import read_json
from agentrl.safe_json import made_safe
from agentrl.wire.redaction import Redactor

Finish = Literal["stop", "length", "tool_calls", "content_filter", "unreadable_call", "failed"]
# Why a turn ended, as servers say it, in lower case. Any other reason, or none, is a failure of the server.
_FINISH: Mapping[str, Finish] = {
    "stop": "stop",
    "eos": "stop",  # Together
    "eos_token": "stop",  # TGI
    "end_turn": "stop",  # Anthropic
    "stop_sequence": "stop",  # Anthropic, TGI
    "complete": "stop",  # Cohere
    "length": "length",
    "max_tokens": "length",  # Anthropic, Gemini, Cohere
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # Anthropic, Z.ai
    "repetition": "length",  # vLLM: cut off because it repeats itself
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",  # Anthropic
    "tool_call": "tool_calls",  # Cohere
    "content_filter": "content_filter",
    "sensitive": "content_filter",  # Z.ai
    "refusal": "content_filter",  # Anthropic
    "error_toxic": "content_filter",  # Cohere
    "safety": "content_filter",  # Gemini, as the next six
    "recitation": "content_filter",
    "language": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
    "malformed_function_call": "unreadable_call",  # Gemini, as the next
    "unexpected_tool_call": "unreadable_call",
    "error": "failed",  # vLLM, OpenRouter, Mistral
    "network_error": "failed",  # Z.ai
    "abort": "failed",  # vLLM, SGLang
    "aborted": "failed",
    "cancelled": "failed",
    "timeout": "failed",  # Cohere
    "insufficient_system_resource": "failed",  # DeepSeek
}


class ResponseError(Exception):
    """A reply that holds no turn; a retry may help. The text may be long and may hold secrets."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a reply says of one turn, in any API.

    Attributes:
        reason: why the turn ended, as the server says it.
        finish: the same, in our words; None where the reason is not known.
        usage: None where the server counts no tokens.
        blocks: what goes back to the server untouched.
    """

    text: str
    calls: tuple[ToolCall, ...]
    reasoning: str | None
    reason: Any
    finish: Finish | None
    usage: Mapping[str, int] | None
    model: Any = None
    blocks: tuple[Mapping[str, Any], ...] = ()


def action_of(spoken: Spoken) -> Action:
    """The action of a turn. Raises: ResponseError if the server failed within the turn."""
    finish, calls = spoken.finish, spoken.calls
    said = bool(spoken.text or calls or spoken.reasoning)
    if finish is None or finish == "failed":
        raise ResponseError(f"the server ended the turn, with the reason {spoken.reason!r}")
    if not said and finish in ("stop", "tool_calls") and (spoken.usage or {}).get("completion_tokens") == 0:
        # A model that says nothing still samples the token that ends the turn, and servers count it.
        raise ResponseError(f"a turn of no tokens, with the reason {spoken.reason!r}")
    if finish == "unreadable_call" or (finish == "tool_calls" and not said):
        name = calls[0].name if calls else ""
        calls = (ToolCall(name, {}, "call_0", f"the server could not read it: the reason is {spoken.reason!r}"),)
        finish = "tool_calls"
    return Action(
        text=spoken.text,
        tool_calls=calls,
        reasoning=spoken.reasoning,
        finish_reason="tool_calls" if finish in ("stop", "unreadable_call") and calls else finish,
        usage=spoken.usage,
        served=Served(
            spoken.model if isinstance(spoken.model, str) else "",
            blocks=tuple([made_safe(block) for block in spoken.blocks]),
        ),
    )


def finish_of(reason: Any) -> Finish | None:
    """A reason in our words, None if it is not known; Gemini writes `function_call_filter: MALFORMED_FUNCTION_CALL`."""
    word = reason.rpartition(":")[2].strip().lower() if isinstance(reason, str) else ""
    return _FINISH.get(word)


def call_of(name: Any, raw: Any, call_id: str) -> ToolCall:
    """A call; arguments that cannot be read set `error`. Args: raw: the arguments, as JSON text or as an object."""
    name = str(name or "")
    if raw is None or raw == "":
        return ToolCall(name, {}, call_id)
    try:
        arguments = read_json(raw if isinstance(raw, str) else json.dumps(raw))
    except (ValueError, RecursionError) as error:
        return ToolCall(name, {}, call_id, f"arguments are not valid JSON: {error}")
    if not isinstance(arguments, dict):
        return ToolCall(name, {}, call_id, f"arguments must be a JSON object, got {type(arguments).__name__}")
    return ToolCall(name, arguments, call_id)


def counts_of(**given: Any) -> dict[str, int]:
    """The counts among the given values, by name; what is no number is left out."""
    return {name: int(count) for name, count in given.items() if isinstance(count, int)}


def detail(usage: Mapping[str, Any], group: str, name: str) -> Any:
    """A count that stands one level deeper; None where the server does not give it."""
    details = usage.get(group)
    return details.get(name) if isinstance(details, Mapping) else None


def usage_of(usage: Any, prompt: str, completion: str) -> dict[str, int] | None:
    """The token counts of a reply. OpenAI's two APIs differ in two words only.

    Args:
        usage: as the server gives it.
        prompt: the server's word for what it read: `prompt` or `input`.
        completion: its word for what it wrote: `completion` or `output`.
    """
    if not isinstance(usage, Mapping):
        return None
    return counts_of(
        prompt_tokens=usage.get(f"{prompt}_tokens"),
        completion_tokens=usage.get(f"{completion}_tokens"),
        cached_tokens=detail(usage, f"{prompt}_tokens_details", "cached_tokens"),
        cache_write_tokens=detail(usage, f"{prompt}_tokens_details", "cache_write_tokens"),
        reasoning_tokens=detail(usage, f"{completion}_tokens_details", "reasoning_tokens"),
    )


def joined(parts: Iterable[Any], **fields: str) -> str:
    """The texts of parts, by type: `joined(parts, text="text")` joins the field `text` of those of type `text`."""
    return "".join([str(part.get(fields[part["type"]]) or "") for part in parts if part.get("type") in fields])


def redacted(action: Action, redactor: Redactor) -> Action:
    """The action without secrets: a server that echoes a key must not put it into a record."""
    calls = tuple(
        [
            structs.replace(
                call,
                name=redactor.text(call.name),
                arguments=_without_secrets(call.arguments, redactor),
                error=_without_secrets(call.error, redactor),
            )
            for call in action.tool_calls
        ]
    )
    served = action.served
    if served is not None:
        blocks = tuple([_without_secrets(block, redactor) for block in served.blocks])
        served = structs.replace(served, model=redactor.text(served.model), blocks=blocks)
    text, reasoning = redactor.text(action.text), _without_secrets(action.reasoning, redactor)
    return structs.replace(action, text=text, reasoning=reasoning, tool_calls=calls, served=served)


def _without_secrets(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, Mapping):
        return {redactor.text(name): _without_secrets(item, redactor) for name, item in value.items()}
    return [_without_secrets(item, redactor) for item in value] if isinstance(value, list) else value
