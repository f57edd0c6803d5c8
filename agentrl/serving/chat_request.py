"""A request for a chat completion: read and checked. Owns which fields have which effect.

A field that would change the answer and cannot is refused by name; one that says nothing about the answer is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl.errors import did_you_mean
from agentrl.messages import Message
from agentrl.policy.base import SamplingParams
from agentrl.serving.api_errors import ApiError

MOST_CHOICES = 128
# Fields that say nothing about the answer.
_IGNORED = frozenset(
    {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
# Fields that are accepted only at the value that changes nothing.
_NEUTRAL: Mapping[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "top_logprobs": 0,
    "logit_bias": {},
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "modalities": ["text"],
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    logprobs: bool | None = None
    return_token_ids: bool | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A request.

    Attributes:
        messages: the conversation; the model speaks next.
        tools: definitions that the model is shown.
        calls: whether what reads as a call is one; False gives it as text.
        sampling: of each choice.
        choices: how many answers.
        stream, include_usage: whether the answer comes in pieces, and whether the last one counts the tokens.
        logprobs, token_ids: whether the answer has them.
    """

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]]
    calls: bool
    sampling: SamplingParams
    choices: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    token_ids: bool = False


def chat_request(body: Any, model: str, defaults: SamplingParams) -> ChatRequest:
    """Read the body of a request.

    Args:
        body: JSON.
        model: the name under which the model is served.
        defaults: sampling where the request says nothing.
    Raises: ApiError.
    """
    given = _validated(body)
    if given.model != model:
        raise ApiError(
            f"The model {given.model!r} does not exist; this server has {model!r}",
            status=404,
            param="model",
            code="model_not_found",
        )
    _check_further(given.model_extra or {})
    tools = [read_tool(tool, f"tools[{number}]") for number, tool in enumerate(given.tools or [])]
    return ChatRequest(
        messages=read_messages(given.messages),
        tools=tools,
        calls=_calls(given.tool_choice, tools),
        sampling=_sampling(given, defaults),
        choices=given.n or 1,
        stream=bool(given.stream),
        include_usage=bool((given.stream_options or {}).get("include_usage")),
        logprobs=bool(given.logprobs),
        token_ids=bool(given.return_token_ids),
    )


def _validated(body: Any) -> _Body:
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    try:
        return _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = str(first["loc"][0]) if first["loc"] else None
        raise ApiError(f"{place}: {first['msg']}", param=place) from None


def _check_further(fields: Mapping[str, Any]) -> None:
    """Refuse fields that would change the answer and cannot."""
    for name, value in fields.items():
        if value is None or name in _IGNORED:
            continue
        if name not in _NEUTRAL:
            known = (*_Body.model_fields, *_NEUTRAL, *_IGNORED)
            raise ApiError(f"{name} is not supported.{did_you_mean(name, known)}", param=name, code="unsupported")
        if value != _NEUTRAL[name]:
            raise ApiError(f"{name} = {value!r} is not supported", param=name, code="unsupported")


def read_tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A tool's definition. Args: where: it stands in the request. Raises: ApiError."""
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(f"{where} must be {{'type': 'function', 'function': {{'name': ...}}}}", param="tools")
    # `strict` asks for constrained decoding; a call that does not fit is for the caller to check, as always.
    return {**tool, "function": {name: value for name, value in function.items() if name != "strict"}}


def _calls(choice: Any, tools: Sequence[Any]) -> bool:
    if choice not in (None, "auto", "none"):
        raise ApiError(
            f"tool_choice {choice!r} is not supported: use 'auto' or 'none'", param="tool_choice", code="unsupported"
        )
    return bool(tools) and choice != "none"


def read_messages(items: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """A conversation in which the model speaks next. Raises: ApiError."""
    found = []
    for number, item in enumerate(items):
        role = "system" if item.get("role") == "developer" else item.get("role")
        try:
            message = Message.from_openai({**item, "role": role})
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ApiError(f"messages[{number}]: {error}", param="messages") from None
        if message.role == "tool" and not message.tool_call_id:
            raise ApiError(f"messages[{number}] of role tool has no tool_call_id", param="messages")
        found.append(message)
    if found[-1].role == "assistant":
        raise ApiError("the last message is the assistant's: continuing it is not supported", param="messages")
    return tuple(found)


def _sampling(given: _Body, defaults: SamplingParams) -> SamplingParams:
    stop = [given.stop] if isinstance(given.stop, str) else given.stop or []
    if any(not text for text in stop):
        raise ApiError("stop must hold texts that are not empty", param="stop")
    asked: dict[str, Any] = {
        "temperature": given.temperature,
        "top_p": given.top_p,
        "top_k": None if given.top_k is None else max(given.top_k, 0),
        "max_tokens": given.max_completion_tokens or given.max_tokens,
        "seed": given.seed,
    }
    return replace(defaults, stop=tuple(stop), **{name: value for name, value in asked.items() if value is not None})
