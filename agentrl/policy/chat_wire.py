"""Request bodies, responses and errors of the OpenAI chat-completions API, as pure functions.

Owns the fields and how servers differ in them (OpenAI, vLLM, SGLang, llama.cpp, OpenRouter). Sending requests
belongs to `agentrl.policy.chat`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from agentrl.messages import Action, FinishReason, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.wire.retry import retry_after_s

REASONING_FIELDS = ("reasoning_content", "reasoning")
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_MESSAGE_CHARS = 4000
_SPENT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|prompt is too long|maximum input length|input is too long|"
    r"inputs tokens|too many tokens",
    re.IGNORECASE,
)
# The sizes of the context and of the prompt in the errors of vLLM (before and since 0.16) and OpenAI.
_ROOM = (
    re.compile(r"maximum context length is (?P<context>\d+).*?\((?P<prompt>\d+) in the (?:messages|prompt)", re.S),
    re.compile(r"passed (?P<prompt>\d+) input tokens.*?context length is only (?P<context>\d+)", re.S),
)
_FINISH: Mapping[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "abort": "abort",
}


class ResponseError(Exception):
    """A response that is not a chat completion; a retry may help. The text may be long and may hold secrets."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error that a server answered.

    Attributes:
        status: HTTP status, or the code of an error object in an answer with status 200.
        message: the server's text, one line, at most 4000 characters; it may hold secrets.
        code: the machine-readable code; empty if there is none.
        retry_after_s: seconds that the server asks to wait; None if it does not say.
    """

    status: int
    message: str
    code: str = ""
    retry_after_s: float | None = None

    @property
    def retryable(self) -> bool:
        """Whether a later request may succeed."""
        temporary = self.status in _RETRIED_STATUS or self.status >= 500
        return temporary and self.code not in _SPENT_CODES and not self.too_long

    @property
    def too_long(self) -> bool:
        """Whether the prompt, or the prompt and max_tokens together, do not fit into the server's context."""
        if self.status == 413 or self.code in ("context_length_exceeded", "exceed_context_size_error"):
            return True
        return self.status in (400, 422, 500) and _TOO_LONG.search(self.message) is not None

    @property
    def room(self) -> int:
        """Tokens that the context has left after the prompt; 0 if the message does not say."""
        for pattern in _ROOM:
            found = pattern.search(self.message)
            if found:
                return max(0, int(found["context"]) - int(found["prompt"]))
        return 0

    def __str__(self) -> str:
        return f"{self.status} {self.message}".strip()


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
    """The JSON body of a request. It has no field that was not asked for: strict servers refuse unknown ones.

    Args:
        reasoning_field: name of the field in which earlier reasoning is sent back; None sends none.
        options: further fields, added last; a value of None removes a field.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message_body(message, reasoning_field) for message in messages],
        "temperature": sampling.temperature,
        max_tokens_field: sampling.max_tokens,
    }
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if return_token_ids:
        body |= {"return_token_ids": True, "logprobs": True}
    if tools:
        body["tools"] = [dict(tool) for tool in tools]
    body |= {name: value for name, value in (options or {}).items() if tools or not _is_about_tools(name)}
    return {name: value for name, value in body.items() if value is not None}


def _is_about_tools(name: str) -> bool:
    """Whether servers refuse the field in a request without tools."""
    return name in ("tool_choice", "parallel_tool_calls")


def _message_body(message: Message, reasoning_field: str | None) -> dict[str, Any]:
    body = message.to_openai()
    reasoning = body.pop("reasoning_content", None)
    if reasoning is not None and reasoning_field is not None:
        body[reasoning_field] = reasoning
    return body


def action_of(response: Mapping[str, Any], sampling: SamplingParams) -> Action:
    """The action in a chat completion.

    Arguments that are not JSON become `ToolCall.error`. Token ids and logprobs are taken if the server gives
    them. Logprobs are taken only if sampling did not change the model's distribution (temperature 1, no top-p,
    no top-k), because servers report the distribution before these are applied.

    Raises: ResponseError if the response has no choice with a message.
    """
    try:
        choice = response["choices"][0]
        return _with_tokens(_spoken(choice, response.get("usage")), response, choice, sampling)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ResponseError(f"no choice with a readable message in {response!r}") from error


def _spoken(choice: Mapping[str, Any], usage: Any) -> Action:
    """The action without its tokens."""
    message = choice["message"]
    calls = tuple(ToolCall.from_openai(call, i) for i, call in enumerate(message.get("tool_calls") or ()))
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name)), None)
    return Action(
        text=_text_of(message.get("content")) or message.get("refusal") or "",
        tool_calls=calls,
        reasoning=reasoning if isinstance(reasoning, str) else None,
        finish_reason=_finish_reason(choice.get("finish_reason"), bool(calls)),
        usage=_usage_of(usage),
    )


def reasoning_field_of(response: Mapping[str, Any]) -> str | None:
    """The name of the field that holds the reasoning in this response; None if there is none."""
    message = response["choices"][0]["message"]
    return next((name for name in REASONING_FIELDS if message.get(name)), None)


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def _finish_reason(given: Any, has_calls: bool) -> FinishReason:
    known = _FINISH.get(given) if isinstance(given, str) else None
    return known or ("tool_calls" if has_calls else "stop")


def _usage_of(usage: Any) -> dict[str, int] | None:
    if not isinstance(usage, Mapping):
        return None
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    details = usage.get("prompt_tokens_details")
    counts["cached_tokens"] = (details or {}).get("cached_tokens") if isinstance(details, Mapping | None) else None
    return {name: int(count) for name, count in counts.items() if isinstance(count, int)}


def _with_tokens(
    action: Action, response: Mapping[str, Any], choice: Mapping[str, Any], sampling: SamplingParams
) -> Action:
    """The action with sampled ids, prompt ids and logprobs, if the response has them and their lengths agree."""
    entries = (choice.get("logprobs") or {}).get("content") or []
    token_ids = _ids(choice.get("token_ids")) or _ids_in_names(entries)
    if not token_ids:
        return action
    prompt_ids = _ids(response.get("prompt_token_ids")) or _ids(choice.get("prompt_token_ids"))
    untempered = (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
    logprobs = None
    if untempered and len(entries) == len(token_ids):
        logprobs = tuple(float(entry["logprob"]) for entry in entries)
    return structs.replace(action, token_ids=token_ids, prompt_ids=prompt_ids, logprobs=logprobs)


def _ids(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(type(item) is int for item in value) else None


def _ids_in_names(entries: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | None:
    """Token ids that vLLM writes as `token_id:123` instead of the tokens' texts."""
    names = [str(entry.get("token", "")).removeprefix("token_id:") for entry in entries]
    given = [str(entry.get("token", "")).startswith("token_id:") for entry in entries]
    return tuple(map(int, names)) if given and all(given) and all(name.isdigit() for name in names) else None


def error_of(status: int, content: bytes, headers: Mapping[str, str] | None = None) -> ServerError:
    """Read an error body, in OpenAI's form, vLLM's flat form, FastAPI's `detail`, or as plain text."""
    message, code = _message_and_code(content)
    wait_s = retry_after_s(headers or {})
    return ServerError(status, shorten(" ".join(message.split()), _MESSAGE_CHARS), code, wait_s)


def error_inside(response: Any) -> ServerError | None:
    """The error object that some gateways send with status 200; None if there is none."""
    if not isinstance(response, Mapping) or response.get("choices") or not response.get("error"):
        return None
    code = response["error"].get("code") if isinstance(response["error"], Mapping) else None
    return error_of(code if isinstance(code, int) else 502, json.dumps(response).encode())


def _message_and_code(content: bytes) -> tuple[str, str]:
    text = content.decode(errors="replace")
    try:
        body = json.loads(text)
    except ValueError:
        return text, ""
    if not isinstance(body, Mapping):
        return text, ""
    error = body.get("error", body)
    if not isinstance(error, Mapping):
        return str(error), ""
    message = error.get("message") or error.get("detail") or text
    return message if isinstance(message, str) else json.dumps(message), str(
        error.get("code") or error.get("type") or ""
    )


def shorten(text: str, max_chars: int) -> str:
    """The text, cut after `max_chars` characters."""
    return text if len(text) <= max_chars else text[:max_chars] + "…"
