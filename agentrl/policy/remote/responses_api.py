"""The OpenAI Responses API, without state on the server: each request holds the whole conversation as input items.

A turn that holds reasoning goes back item by item as the server wrote it, encrypted thoughts and ids included. Written
against openai 3.57 (`openai.types.responses`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl.errors import ConfigError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.remote.chat_completions import arguments_text
from agentrl.policy.remote.dialect import Asked, Dialect, with_extra
from agentrl.policy.remote.errors import ServerError, error_of_object, within_answer
from agentrl.policy.remote.history import NO_TEXT, safe_messages
from agentrl.policy.remote.options import ChatOptions
from agentrl.policy.remote.reading import (
    Finish,
    ResponseError,
    Spoken,
    action_of,
    call_of,
    joined,
    usage_of,
)

_GOOD_ID = re.compile(r"[!-~]{1,64}")
# Why a response is incomplete. Any other reason is a failure of the server.
_INCOMPLETE: Mapping[str, Finish] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_STATUS_OF_CODE: Mapping[Any, int] = {"rate_limit_exceeded": 429, "server_error": 500}
_PLAIN_ITEMS = ("message", "function_call")


class ResponsesApi(Dialect):
    """`POST /responses`."""

    kind = "responses"
    unsupported = ("return_token_ids", "max_tokens_field")

    def body(self, model: str, asked: Asked, options: ChatOptions) -> dict[str, Any]:
        """The JSON body of a request. Raises: ConfigError for stop texts, which this API does not have."""
        sampling = asked.sampling
        if sampling.stop:
            raise ConfigError("the Responses API has no stop texts: ask for none, or use openai:NAME")
        body: dict[str, Any] = {
            "model": model,
            "input": _items(asked, with_reasoning=options.send_reasoning),
            "max_output_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or None,
            "store": False,
            "stream": False,
        }
        if asked.tools:
            body["tools"] = [_tool(tool) for tool in asked.tools]
            body["tool_choice"] = _choice(options.tool_choice)
            body["parallel_tool_calls"] = options.parallel_tool_calls
        return with_extra(body, options)

    def action(self, reply: Mapping[str, Any], asked: Asked, options: ChatOptions) -> Action:
        try:
            return action_of(_spoken(reply))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ResponseError(f"no readable output in {reply!r}") from error

    def error_inside(self, reply: Any) -> ServerError | None:
        error = reply.get("error") if isinstance(reply, Mapping) else None
        if not error:
            return None
        status = _STATUS_OF_CODE.get(error.get("code")) if isinstance(error, Mapping) else None
        # A response with a status was begun; anything else is a gateway's error in place of a response.
        return within_answer(error, status) if reply.get("status") else error_of_object(error, status)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool in this API's flat form; `strict` would forbid optional arguments."""
    function = tool["function"]
    wanted = {name: function.get(name) for name in ("name", "description", "parameters")}
    return {"type": "function", **{n: v for n, v in wanted.items() if v is not None}, "strict": False}


def _choice(choice: str | Mapping[str, Any] | None) -> Any:
    """The tool choice; one tool is named without the object that Chat Completions puts around its name."""
    if isinstance(choice, Mapping) and isinstance(choice.get("function"), Mapping):
        return {"type": "function", "name": choice["function"].get("name")}
    return choice


def _items(asked: Asked, *, with_reasoning: bool) -> list[dict[str, Any]]:
    """The conversation as input items."""
    items: list[dict[str, Any]] = []
    for message in safe_messages(asked.messages, asked.tools, _GOOD_ID):
        if message.role == "tool":
            items.append({"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content})
        elif message.role == "assistant":
            own = _own_items(message) if with_reasoning else None
            items += own if own is not None else _turn_items(message)
        else:
            items.append({"role": message.role, "content": message.content})
    return items


def _turn_items(message: Message) -> Iterator[dict[str, Any]]:
    """An assistant's turn without its reasoning."""
    if message.content:
        yield {"role": "assistant", "content": message.content}
    for call in message.tool_calls:
        yield _call_item(call)


def _call_item(call: ToolCall) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments_text(call)}


def _own_items(message: Message) -> list[dict[str, Any]] | None:
    """The turn as the server wrote it; None where it wrote it for somebody else, or the turn was changed since.

    A call whose name, id or arguments no server would accept is replaced.
    """
    blocks = message.blocks
    if not blocks or any(
        block.get("type") in ("thinking", "redacted_thinking", "text", "tool_use") for block in blocks
    ):
        return None
    num_calls = sum(block.get("type") == "function_call" for block in blocks)
    if num_calls != len(message.tool_calls) or _text_in(blocks) != message.content.replace(NO_TEXT, ""):
        return None
    calls = iter(message.tool_calls)
    return [_own_call(block, next(calls)) if block.get("type") == "function_call" else dict(block) for block in blocks]


def _own_call(block: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
    same = (block.get("call_id"), block.get("name"), None) == (call.id, call.name, call.error)
    return dict(block) if same else _call_item(call)


def _spoken(reply: Mapping[str, Any]) -> Spoken:
    items = reply["output"]
    calls = [item for item in items if item["type"] == "function_call"]
    details = reply.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    finish: Finish | None = "stop" if reply.get("status") == "completed" else _INCOMPLETE.get(str(reason))
    return Spoken(
        text=_text_in(items),
        calls=tuple([call_of(c.get("name"), c.get("arguments"), _id_of(c, i)) for i, c in enumerate(calls)]),
        reasoning=_reasoning_in(items) or None,
        reason=reason or reply.get("status"),
        finish=finish,
        usage=usage_of(reply.get("usage"), "input", "output"),
        model=reply.get("model"),
        blocks=tuple(items) if _needs_blocks(items) else (),
    )


def _id_of(call: Mapping[str, Any], index: int) -> str:
    return str(call.get("call_id") or f"call_{index}")


def _text_in(items: Sequence[Mapping[str, Any]]) -> str:
    messages = [item for item in items if item.get("type") == "message"]
    return "".join([joined(item.get("content") or (), output_text="text", refusal="refusal") for item in messages])


def _reasoning_in(items: Sequence[Mapping[str, Any]]) -> str:
    thoughts = [item for item in items if item.get("type") == "reasoning"]
    return "\n\n".join(
        joined(item.get("content") or (), reasoning_text="text")
        or "\n\n".join(part.get("text") or "" for part in item.get("summary") or ())
        for item in thoughts
    ).strip()


def _needs_blocks(items: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the items say more than text and calls, and all that a later request needs of them is in them."""
    thoughts = [item for item in items if item["type"] == "reasoning"]
    whole = all(item.get("encrypted_content") or item.get("content") for item in thoughts)
    return whole and any(item["type"] not in _PLAIN_ITEMS or item.get("phase") for item in items)
