"""Reading one call and thinking out of a model's text. Never raises: what cannot be read is an error in the call."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import structs

from agentrl.messages import ToolCall
from agentrl.policy.strict_json import read_json

MOST_UNREAD = 8
"""Calls of one turn that cannot be read and are kept; see `join_unread`."""
_OWN_ID = re.compile(r"call_([0-9]{1,5})")
_SHORT_OWN_ID = re.compile(r"call([0-9]{5})")


class CallSyntax(Protocol):
    """How the calls of a turn are written."""

    def read(self, text: str) -> tuple[str, list[ToolCall]]: ...
    def write(self, call: ToolCall) -> str: ...


@dataclass(frozen=True)
class CallKeys:
    """Where a call's object holds what.

    Attributes:
        name, arguments: keys; `parameters` is accepted for `arguments`, and the other way round.
        inside: key of the object that holds both; empty where the call's object does itself.
    """

    name: str = "name"
    arguments: str = "arguments"
    inside: str = ""


def read_call(body: str, index: int, keys: CallKeys) -> ToolCall:
    """Read one call's JSON.

    Args:
        body: the text of the call.
        index: its place in the turn; becomes the call's id.
        keys: of its object.
    """
    try:
        return call_of(read_json(body), index, keys)
    except ValueError as error:
        return ToolCall(_name_in(body, keys.name), {}, f"call_{index}", f"not valid JSON: {error}")


def call_of(call: Any, index: int, keys: CallKeys) -> ToolCall:
    """The call in a JSON value; arguments as for `read_call`."""
    call_id = _given_id(call) or f"call_{index}"
    if isinstance(call, dict) and keys.inside and isinstance(call.get(keys.inside), dict):
        call = call[keys.inside]
    if not isinstance(call, dict) or not isinstance(call.get(keys.name), str):
        return ToolCall("", {}, call_id, f'expected {{"{keys.name}": ..., "{keys.arguments}": {{...}}}}')
    other = "parameters" if keys.arguments == "arguments" else "arguments"
    return with_arguments(call[keys.name], call.get(keys.arguments, call.get(other, {})), call_id, keys.arguments)


def with_arguments(name: str, arguments: Any, call_id: str, what: str = "arguments") -> ToolCall:
    """A call with arguments that the model wrote; they must be a JSON object, or a string that holds one."""
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError as error:
            return ToolCall(name, {}, call_id, f"{what} must be a JSON object, got str: {error}")
    if not isinstance(arguments, dict):
        return ToolCall(name, {}, call_id, f"{what} must be a JSON object, got {type(arguments).__name__}")
    return ToolCall(name, arguments, call_id)


def join_unread(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """Calls of a turn, where those that cannot be read for the same reason are one call, which says how many they were.

    Each call is answered, so 64 sampled opening marks would otherwise get 64 times the same error. At most
    `MOST_UNREAD` such calls are kept; further ones are counted by the last of them. Calls that can be read stay as they
    are.
    """
    kept: dict[Any, ToolCall] = {}
    counts: Counter[Any] = Counter()
    unread = 0
    for number, call in enumerate(calls):
        reason: Any = number if call.error is None else (call.name, call.error)
        if call.error is not None and reason not in kept:
            unread += 1
            reason = "others" if unread >= MOST_UNREAD else reason
        kept.setdefault(reason, call)
        counts[reason] += 1
    return [_counted(call, counts[reason], same=reason != "others") for reason, call in kept.items()]


def _counted(call: ToolCall, count: int, *, same: bool) -> ToolCall:
    if count == 1:
        return call
    others = "this error" if same else "this error or another one"
    return structs.replace(call, error=f"{call.error} ({count} calls of this turn have {others})")


def short_id(call_id: str) -> str:
    """The id in the form of nine letters and digits, which Mistral's templates ask for; `call_3` is `call00003`."""
    own = _OWN_ID.fullmatch(call_id)
    if own:
        return f"call{int(own[1]):05d}"
    plain = "".join(character for character in call_id if character.isascii() and character.isalnum())
    return plain[-9:].rjust(9, "0")


def _given_id(call: Any) -> str:
    """The id that a model wrote into its call, `short_id` undone; empty where there is none."""
    given = call.get("id") if isinstance(call, dict) else None
    if not isinstance(given, str):
        return ""
    own = _SHORT_OWN_ID.fullmatch(given)
    return f"call_{int(own[1])}" if own else given


def split_reasoning(text: str, *, opened: bool = False) -> tuple[str | None, str]:
    """Split `<think>...</think>` from the front; a thought that was cut off has no text after it.

    Only what stands at the front is a thought: the tags elsewhere are text.

    Args:
        text: the turn.
        opened: the prompt already ends with `<think>`.
    """
    start = text.lstrip()
    if not opened and not start.startswith("<think>"):
        return None, text
    thought, _, rest = start.removeprefix("<think>").partition("</think>")
    return thought.strip(), rest


def types_of(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The schemas of a tool's parameters, by parameter; empty where they are not known."""
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else {}
    return {}


def _name_in(body: str, key: str) -> str:
    """The name in a call that is not valid JSON, so that the error can be counted under its tool."""
    found = re.search(rf'"{re.escape(key)}"\s*:\s*"([^"\\]*)"', body)
    return found.group(1) if found else ""
