"""The OpenAI Chat Completions API, and how servers differ in it (vLLM, SGLang, llama.cpp, OpenRouter, Gemini, ...)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from agentrl.messages import Action, Message, TokenSignals, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.remote.dialect import Asked, Dialect, with_extra
from agentrl.policy.remote.errors import ServerError, error_of_object, within_answer
from agentrl.policy.remote.history import safe_messages
from agentrl.policy.remote.options import ChatOptions
from agentrl.policy.remote.reading import (
    Finish,
    ResponseError,
    Spoken,
    action_of,
    call_of,
    finish_of,
    joined,
    usage_of,
)

_REASONING_FIELDS = ("reasoning_content", "reasoning")
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


class ChatCompletions(Dialect):
    """`POST /chat/completions`. Servers name the field of the model's thinking differently; the last name is kept."""

    kind = "openai"

    def __init__(self) -> None:
        self._reasoning_field = _REASONING_FIELDS[0]

    def body(self, model: str, asked: Asked, options: ChatOptions) -> dict[str, Any]:
        """The JSON body of a request.

        Servers take what is not sent from the model's folder (vLLM samples with its top_k), so top_p is always sent,
        and where log-probabilities are asked for, so is everything that changes the distribution.
        """
        sampling = asked.sampling
        field = self._reasoning_field if options.send_reasoning else None
        body: dict[str, Any] = {
            "model": model,
            "messages": sent_messages(asked.messages, asked.tools, field),
            "temperature": sampling.temperature,
            options.max_tokens_field: sampling.max_tokens,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or None,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed,
        }
        body = {name: value for name, value in body.items() if value is not None}
        if options.return_token_ids:
            body |= {"return_token_ids": True, "logprobs": True}
        if sampling.signals:
            body |= {"logprobs": True, "top_logprobs": 2}
        if options.return_token_ids or options.extra_body.get("logprobs"):
            body = {**_NEUTRAL, **body}
        if asked.tools:
            body["tools"] = [dict(tool) for tool in asked.tools]
            body["tool_choice"], body["parallel_tool_calls"] = options.tool_choice, options.parallel_tool_calls
            return with_extra(body, options)
        # Servers refuse fields about tools in a request without tools.
        return {n: v for n, v in with_extra(body, options).items() if n not in ("tool_choice", "parallel_tool_calls")}

    def action(self, reply: Mapping[str, Any], asked: Asked, options: ChatOptions) -> Action:
        """The action in a chat completion.

        Arguments that are not a JSON object become `ToolCall.error`. Token ids and logprobs are taken if the server
        gives them. Logprobs are taken only if sampling did not change the model's distribution (temperature 1, no
        top-p, no top-k, nothing in `extra_body`), because servers report the distribution before these are applied.
        """
        try:
            choice = reply["choices"][0]
            exact = _keeps_distribution(asked.sampling, options.extra_body)
            action = _with_tokens(action_of(_spoken(choice, reply)), reply, choice, exact=exact)
            self._reasoning_field = _reasoning_field_of(choice["message"]) or self._reasoning_field
        except ResponseError as error:
            raise ResponseError(f"{error}: {dict(choice)!r}") from error
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ResponseError(f"no choice with a readable message in {reply!r}") from error
        return action

    def error_inside(self, reply: Any) -> ServerError | None:
        """The error in a reply with status 200, as gateways send it.

        It stands in place of the choices, or in the first choice where the server failed while the model was writing.
        """
        if not isinstance(reply, Mapping):
            return None
        if not reply.get("choices"):
            error = reply.get("error") or (reply if reply.get("object") == "error" else None)
            return error_of_object(error) if error else None
        choice = reply["choices"][0] if isinstance(reply["choices"], list) else None
        if not isinstance(choice, Mapping) or not choice.get("error"):
            return None
        return within_answer(choice["error"])


def sent_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], reasoning_field: str | None
) -> list[dict[str, Any]]:
    """The conversation in OpenAI's form, such as any server accepts.

    Args: reasoning_field: name of the field in which earlier reasoning is sent back; None sends none.
    """
    return [_sent(message, reasoning_field) for message in safe_messages(messages, tools)]


def _sent(message: Message, reasoning_field: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_text(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        body["name"] = message.name
    if message.reasoning is not None and reasoning_field is not None:
        body[reasoning_field] = message.reasoning
    return body


def arguments_text(call: ToolCall) -> str:
    """The arguments of a safe call as JSON."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)


def _spoken(choice: Mapping[str, Any], reply: Mapping[str, Any]) -> Spoken:
    message = choice["message"]
    entries = message.get("tool_calls") or [{"function": call} for call in [message.get("function_call")] if call]
    name = _reasoning_field_of(message)
    reasoning = message[name] if name else None
    return Spoken(
        text=_text_of(message.get("content")) or message.get("refusal") or "",
        calls=tuple([_call_of(entry, i) for i, entry in enumerate(entries)]),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        reason=choice.get("finish_reason"),
        finish=_finish_of(choice),
        usage=usage_of(reply.get("usage"), "prompt", "completion"),
        model=reply.get("model"),
    )


def _call_of(entry: Mapping[str, Any], index: int) -> ToolCall:
    """One entry of `message.tool_calls`."""
    function = entry.get("function") or {}
    return call_of(function.get("name"), function.get("arguments"), str(entry.get("id") or f"call_{index}"))


def _finish_of(choice: Mapping[str, Any]) -> Finish | None:
    """Why the turn ended. OpenRouter translates many reasons of the servers behind it to "stop"."""
    found, behind = finish_of(choice.get("finish_reason")), finish_of(choice.get("native_finish_reason"))
    return behind if behind in ("failed", "content_filter", "unreadable_call") else found


def _reasoning_field_of(message: Mapping[str, Any]) -> str | None:
    """The name of the field that holds the reasoning in this message; None if there is none."""
    return next((name for name in _REASONING_FIELDS if message.get(name)), None)


def _text_of(content: Any) -> str:
    return content or "" if content is None or isinstance(content, str) else joined(content, text="text")


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
