"""Request bodies and responses of the OpenAI chat-completions API, as pure functions.

Owns the fields and how servers differ in them (OpenAI, vLLM, SGLang, llama.cpp, OpenRouter, Gemini, ...). Sending
requests belongs to `agentrl.policy.chat`, errors to `agentrl.policy.chat_errors`, the conversation in a request to
`agentrl.policy.chat_history`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import structs

from agentrl.messages import Action, Message, TokenSignals, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.chat_history import sent_messages
from agentrl.policy.strict_json import read_json
from agentrl.wire.redaction import Redactor

REASONING_FIELDS = ("reasoning_content", "reasoning")
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


# What leaves the model's distribution as it is, for servers that return token ids and log-probabilities (vLLM, SGLang).
_NEUTRAL: Mapping[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
# Further fields of a request that change it, whatever their value.
_BIASES = ("logit_bias", "typical_p", "min_tokens", "bad_words", "allowed_token_ids", "ignore_eos")


class ResponseError(Exception):
    """A response that is not a chat completion; a retry may help. The text may be long and may hold secrets."""


def request_body(
    model: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    sampling: SamplingParams,
    *,
    max_tokens_field: str = "max_tokens",
    reasoning_field: str | None = None,
    return_token_ids: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON body of a request.

    Servers take what is not sent from the model's folder (vLLM samples with its top_k), so top_p is always sent, and
    where log-probabilities are asked for, so is everything that changes the distribution. No other field is sent that
    was not asked for: strict servers refuse unknown ones.

    Args:
        reasoning_field: name of the field in which earlier reasoning is sent back; None sends none.
        options: further fields, added last; a value of None removes a field.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": sent_messages(messages, tools, reasoning_field),
        "temperature": sampling.temperature,
        max_tokens_field: sampling.max_tokens,
        "top_p": sampling.top_p,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if return_token_ids:
        body |= {"return_token_ids": True, "logprobs": True}
    if sampling.signals:
        body |= {"logprobs": True, "top_logprobs": 2}
    if return_token_ids or (options or {}).get("logprobs"):
        body = {**_NEUTRAL, **body}
    if tools:
        body["tools"] = [dict(tool) for tool in tools]
    body |= {name: value for name, value in (options or {}).items() if tools or not _is_about_tools(name)}
    return {name: value for name, value in body.items() if value is not None}


def _is_about_tools(name: str) -> bool:
    """Whether servers refuse the field in a request without tools."""
    return name in ("tool_choice", "parallel_tool_calls")


def action_of(
    response: Mapping[str, Any], sampling: SamplingParams, extra_body: Mapping[str, Any] | None = None
) -> Action:
    """The action in a chat completion.

    Arguments that are not a JSON object become `ToolCall.error`. Token ids and logprobs are taken if the server gives
    them. Logprobs are taken only if sampling did not change the model's distribution (temperature 1, no top-p,
    no top-k, nothing in `extra_body`), because servers report the distribution before these are applied.

    Raises: ResponseError if the response has no choice with a message, or the server failed within the turn.
    """
    try:
        choice = response["choices"][0]
        exact = _keeps_distribution(sampling, extra_body or {})
        return _with_tokens(_spoken(choice, response.get("usage")), response, choice, exact=exact)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ResponseError(f"no choice with a readable message in {response!r}") from error


def _spoken(choice: Mapping[str, Any], usage: Any) -> Action:
    """The action without its tokens."""
    message = choice["message"]
    entries = message.get("tool_calls") or [{"function": call} for call in [message.get("function_call")] if call]
    calls = tuple([_call_of(entry, i) for i, entry in enumerate(entries)])
    text = _text_of(message.get("content")) or message.get("refusal") or ""
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name)), None)
    finish, counts = _finish_of(choice), _usage_of(usage)
    said = bool(text or calls or reasoning)
    if not said and finish in ("stop", "tool_calls") and (counts or {}).get("completion_tokens") == 0:
        # A model that says nothing still samples the token that ends the turn, and servers count it.
        raise ResponseError(f"a turn of no tokens, finish_reason {choice.get('finish_reason')!r}: {dict(choice)!r}")
    if finish == "unreadable_call" or (finish == "tool_calls" and not said):
        name = calls[0].name if calls else ""
        reason = f"the server could not read it: finish_reason {choice['finish_reason']!r}"
        calls, finish = (ToolCall(name, {}, "call_0", reason),), "tool_calls"
    return Action(
        text=text,
        tool_calls=calls,
        reasoning=reasoning if isinstance(reasoning, str) else None,
        finish_reason="tool_calls" if finish == "stop" and calls else finish,
        usage=counts,
    )


def _call_of(entry: Mapping[str, Any], index: int) -> ToolCall:
    """One entry of `message.tool_calls`; arguments that cannot be read set `error`."""
    function = entry.get("function") or {}
    name, raw = str(function.get("name") or ""), function.get("arguments")
    call_id = str(entry.get("id") or f"call_{index}")
    if raw is None or raw == "":
        return ToolCall(name, {}, call_id)
    try:
        arguments = read_json(raw if isinstance(raw, str) else json.dumps(raw))
    except (ValueError, RecursionError) as error:
        return ToolCall(name, {}, call_id, f"arguments are not valid JSON: {error}")
    if not isinstance(arguments, dict):
        return ToolCall(name, {}, call_id, f"arguments must be a JSON object, got {type(arguments).__name__}")
    return ToolCall(name, arguments, call_id)


def _finish_of(
    choice: Mapping[str, Any],
) -> Literal["stop", "length", "tool_calls", "content_filter", "unreadable_call"]:
    """Why the turn ended. Raises: ResponseError if the server ended it, or gives no reason that is known."""
    given, native = choice.get("finish_reason"), choice.get("native_finish_reason")
    found, behind = _FINISH.get(_word(given)), _FINISH.get(_word(native))
    # OpenRouter translates many reasons of the servers behind it to "stop".
    if behind in ("failed", "content_filter", "unreadable_call"):
        found = behind
    if found is None or found == "failed":
        raise ResponseError(f"the server ended the turn, with finish_reason {given!r} (native: {native!r})")
    return found


def _word(reason: Any) -> str:
    """A reason in lower case; Gemini writes `function_call_filter: MALFORMED_FUNCTION_CALL`."""
    return reason.rpartition(":")[2].strip().lower() if isinstance(reason, str) else ""


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
    text, reasoning = redactor.text(action.text), _without_secrets(action.reasoning, redactor)
    return structs.replace(action, text=text, reasoning=reasoning, tool_calls=calls)


def _without_secrets(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, Mapping):
        return {redactor.text(name): _without_secrets(item, redactor) for name, item in value.items()}
    return [_without_secrets(item, redactor) for item in value] if isinstance(value, list) else value


def reasoning_field_of(response: Mapping[str, Any]) -> str | None:
    """The name of the field that holds the reasoning in this response; None if there is none."""
    message = response["choices"][0]["message"]
    return next((name for name in REASONING_FIELDS if message.get(name)), None)


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def _usage_of(usage: Any) -> dict[str, int] | None:
    if not isinstance(usage, Mapping):
        return None
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    details = usage.get("prompt_tokens_details")
    counts["cached_tokens"] = (details or {}).get("cached_tokens") if isinstance(details, Mapping | None) else None
    return {name: int(count) for name, count in counts.items() if isinstance(count, int)}


def _with_tokens(action: Action, response: Mapping[str, Any], choice: Mapping[str, Any], *, exact: bool) -> Action:
    """The action with sampled ids, prompt ids and logprobs, if the response has them and their lengths agree."""
    entries = (choice.get("logprobs") or {}).get("content") or []
    action = structs.replace(action, signals=_signals(entries))
    token_ids = _ids(choice.get("token_ids")) or _ids_in_names(entries)
    if not token_ids:
        return action
    prompt_ids = _ids(response.get("prompt_token_ids")) or _ids(choice.get("prompt_token_ids"))
    logprobs = None
    if exact and len(entries) == len(token_ids):
        logprobs = tuple(float(entry["logprob"]) for entry in entries)
    return structs.replace(action, token_ids=token_ids, prompt_ids=prompt_ids, logprobs=logprobs)


def _signals(entries: Sequence[Mapping[str, Any]]) -> TokenSignals | None:
    """How sure the model was of each token, from the server's most likely tokens; None if it does not give two."""
    margins = []
    for entry in entries:
        others = [float(o["logprob"]) for o in entry.get("top_logprobs") or () if o["token"] != entry["token"]]
        if not others:
            return None
        margins.append(math.exp(float(entry["logprob"])) - math.exp(max(others)))
    return TokenSignals(tuple(str(entry["token"]) for entry in entries), tuple(margins)) if margins else None


def _keeps_distribution(sampling: SamplingParams, extra_body: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn from the model's own distribution."""
    asked = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1}
    given = {**asked, **extra_body}
    neutral = {"temperature": 1.0, "top_p": 1.0, **_NEUTRAL}
    plain = all(given.get(name, value) == value for name, value in neutral.items())
    return plain and not any(given.get(name) for name in _BIASES)


def _ids(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(type(item) is int for item in value) else None


def _ids_in_names(entries: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | None:
    """Token ids that vLLM writes as `token_id:123` instead of the tokens' texts."""
    names = [str(entry.get("token", "")).removeprefix("token_id:") for entry in entries]
    given = [str(entry.get("token", "")).startswith("token_id:") for entry in entries]
    return tuple(map(int, names)) if given and all(given) and all(name.isdigit() for name in names) else None
