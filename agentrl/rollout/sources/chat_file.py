"""Chats that were recorded elsewhere, one JSON object a line, as trajectories. Owns the form of a line.

A line is in OpenAI's chat form: `messages` and `tools`, and further `reward`, `success`, `task`, `weight` and
`metadata`. Everything that would be lost without a word is refused by name. A chat has no token ids: they come from the
chat format of the model that is trained on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agentrl.errors import did_you_mean
from agentrl.messages import Action, Message
from agentrl.policy.strict_json import read_json
from agentrl.rollout.json_lines import canonical
from agentrl.safe_json import safe_text
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

IMPORTED = "imported"
"""Id of the environment of every imported chat, and name of its stage: nothing can play it again."""
FIELDS = ("messages", "tools", "reward", "success", "task", "weight", "metadata")
_ROLES = {"developer": "system"}
_MESSAGE_FIELDS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "tool_calls", "reasoning_content", "weight"),
    "tool": ("role", "content", "tool_call_id", "name"),
}
_INSTEAD = {
    "functions": "give the functions as tools: [{'type': 'function', 'function': {...}}]",
    "function_call": "give the call as tool_calls: [{'id': ..., 'type': 'function', 'function': {...}}]",
    "prompt": "give one list of messages",
    "completion": "give one list of messages",
    "conversations": "give messages with role and content",
    "chosen": "this is a file of preferences: name it in a stage of kind prefer as pairs = 'FILE'",
    "reasoning": "name it reasoning_content",
}


class ChatError(ValueError):
    """A line is no chat; the text says what is wrong and what to do."""


@dataclass(frozen=True)
class Conversation:
    """Messages and tools of a line, checked."""

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]]
    weights: tuple[float, ...]
    """Weight of each assistant message's loss, in order."""

    @property
    def opening(self) -> tuple[Message, ...]:
        """The messages before the first that the assistant wrote."""
        first = next(number for number, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[:first]


def chat_of(line: bytes | str, number: int, *, keep_unknown: bool = False) -> Trajectory:
    """The chat of one line.

    Args:
        line: JSON.
        number: of the line, from 1; it names the episode.
        keep_unknown: keep fields that have no meaning here in the metadata, instead of refusing them.
    Raises: ChatError.
    """
    record = object_of(line)
    unknown = [name for name in record if name not in FIELDS and record[name] is not None]
    if unknown and not keep_unknown:
        raise ChatError(_unknown(f"the field {unknown[0]!r}", unknown[0], FIELDS) + "; or import with --keep-fields")
    chat = conversation_of(record.get("messages"), record.get("tools"), "messages")
    reward, success = _number(record, "reward"), _truth(record, "success")
    metadata = record.get("metadata")
    if not isinstance(metadata, Mapping | None):
        raise ChatError(f"metadata must be an object, got {_kind(metadata)}")
    info = {
        "line": number,
        "rewarded": reward is not None or success is not None,
        "metadata": {**(metadata or {}), **{name: record[name] for name in unknown}},
        **({} if success is None and reward is not None else {"success": bool(success)}),
        **_weights(record, chat.weights),
    }
    task = _task(record.get("task"), chat)
    return trajectory_of(chat, task, f"line-{number}", reward or 0.0, info)


def object_of(line: bytes | str) -> dict[str, Any]:
    """The JSON object of a line. Raises: ChatError."""
    try:
        record = read_json(line.decode() if isinstance(line, bytes) else line)
    except UnicodeDecodeError as error:
        raise ChatError(f"is not UTF-8 text ({error}): write the file in UTF-8") from None
    except ValueError as error:
        raise ChatError(f"is not JSON ({error}): every line must be one JSON object") from None
    if not isinstance(record, dict):
        raise ChatError(f"is not a JSON object, but {_kind(record)}")
    return record


def trajectory_of(
    chat: Conversation, task: Task, name: str, reward: float = 0.0, info: Mapping[str, Any] | None = None
) -> Trajectory:
    """A conversation as an episode without token ids; the reward is that of its last turn."""
    turns: list[Turn] = []
    seen: list[Message] = []
    for message in chat.messages:
        if message.role != "assistant":
            seen.append(message)
            continue
        if turns:
            turns[-1].next_observation = tuple(seen)
        turns.append(Turn(tuple(seen), Action(message.content, message.tool_calls, message.reasoning)))
        seen = []
    turns[-1].next_observation, turns[-1].reward = tuple(seen), reward
    return Trajectory(
        EnvRef(IMPORTED),
        task,
        0,
        turns,
        Ending("answer" if not turns[-1].action.tool_calls else "tool"),
        group_id=task.id,
        episode_id=name,
        labels=Labels(IMPORTED, mode="demonstration"),
        info=info or {},
        tools=chat.tools,
    )


def turn_weights(trajectory: Trajectory) -> tuple[float, ...] | None:
    """The weight of each turn's loss, as an imported chat gives it; None where every turn weighs 1."""
    found = trajectory.info.get("turn_weights") if trajectory.env.id == IMPORTED else None
    return tuple(found) if found else None


# Messages.


def conversation_of(messages: Any, tools: Any, where: str) -> Conversation:
    """A list of messages and tools, checked.

    Args: where: the list's name, for messages.
    Raises: ChatError.
    """
    if not isinstance(messages, list) or not messages:
        raise ChatError(f"{where} must be a list of messages, got {_kind(messages)}")
    shown = _tools(tools)
    found = tuple(_message(item, f"{where}[{number}]") for number, item in enumerate(messages))
    weights = tuple(
        _weight(item, f"{where}[{number}]") for number, item in enumerate(messages) if item["role"] == "assistant"
    )
    _check_order(found, where)
    _check_calls(found, {tool["function"]["name"] for tool in shown}, where)
    return Conversation(found, shown, weights)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise ChatError(f"{where} must be an object with role and content, got {_kind(item)}")
    given = item.get("role")
    role = _ROLES.get(given, given) if isinstance(given, str) else given
    if not isinstance(role, str) or role not in _MESSAGE_FIELDS:
        raise ChatError(f"{where}.role must be system, user, assistant or tool, got {role!r}")
    for name, value in item.items():
        if value is not None and value != [] and name not in _MESSAGE_FIELDS[role]:
            raise ChatError(_unknown(f"{where}: the field {name!r} of a message of role {role}", name, ()))
    content = _content(item.get("content"), f"{where}.content")
    if role != "assistant" and item.get("content") is None:
        raise ChatError(f"{where}.content is missing: give text")
    message = Message.from_openai({**item, "role": role, "content": content, "tool_calls": _calls(item, where)})
    wrong = next((call for call in message.tool_calls if call.safe().error is not None), None)
    if wrong is not None:
        raise ChatError(f"{where}: the call of {wrong.name!r} cannot be read: {wrong.safe().error}")
    if role == "assistant" and not (message.content or message.tool_calls):
        raise ChatError(f"{where} says nothing and calls nothing: leave it out")
    return message


def _content(content: Any, where: str) -> str:
    """The text of a message's content; parts of text are joined."""
    if content is None or isinstance(content, str):
        return safe_text(content or "")
    if not isinstance(content, list):
        raise ChatError(f"{where} must be text, got {_kind(content)}")
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else _kind(part)
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ChatError(f"{where}[{number}] is of type {kind!r}: only text can be trained on")
    return safe_text("".join(part["text"] for part in content))


def _calls(item: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    calls = item.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ChatError(f"{where}.tool_calls must be a list, got {_kind(calls)}")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ChatError(
                f"{where}.tool_calls[{number}] must be "
                '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'
            )
    return calls


def _weight(item: Mapping[str, Any], where: str) -> float:
    weight = item.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        raise ChatError(f"{where}.weight must be a number of 0 or more, got {weight!r}")
    return float(weight)


def _tools(tools: Any) -> list[dict[str, Any]]:
    if not isinstance(tools, list | None):
        raise ChatError(f"tools must be a list, got {_kind(tools)}")
    for number, tool in enumerate(tools or []):
        function = tool.get("function") if isinstance(tool, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not isinstance(function.get("parameters", {}), dict)
        ):
            raise ChatError(
                f"tools[{number}] must be "
                '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
            )
    return tools or []


def _check_order(messages: Sequence[Message], where: str) -> None:
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise ChatError(f"{where} holds no message of the assistant: there is nothing to learn")
    if roles[0] == "assistant":
        raise ChatError(f"{where}[0] is the assistant's: give what it answers before it")
    for number in range(1, len(roles)):
        if roles[number] == roles[number - 1] == "assistant":
            raise ChatError(
                f"{where}[{number - 1}] and {where}[{number}] are both the assistant's: join them, or give what came "
                "between"
            )


def _check_calls(messages: Sequence[Message], known: set[str], where: str) -> None:
    """Every call is of a shown tool, and has one answer before the assistant speaks again."""
    waiting: set[str] = set()
    for number, message in enumerate(messages):
        place = f"{where}[{number}]"
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise ChatError(f"{place}: no call waits for tool_call_id {message.tool_call_id!r}")
            waiting.discard(message.tool_call_id)
        elif waiting:
            raise ChatError(f"{place}: the call {min(waiting)!r} before it has no message of role tool")
        for call in message.tool_calls:
            if call.name not in known:
                hint = did_you_mean(call.name, known) or " Give the definitions as tools, next to messages."
                raise ChatError(f"{place} calls {call.name!r}, which is not in tools.{hint}")
            if call.id in waiting:
                raise ChatError(f"{place}: two calls have the id {call.id!r}: give each its own")
            waiting.add(call.id)


# The other fields.


def _task(given: Any, chat: Conversation) -> Task:
    """Chats of one task are compared with each other; without a name those that begin alike are."""
    if not isinstance(given, str | int | None) or isinstance(given, bool):
        raise ChatError(f"task must be a name, got {_kind(given)}")
    mark = blake2b(canonical([chat.opening, chat.tools]), digest_size=8).hexdigest()
    return Task(f"prompt-{mark}" if given is None else str(given), "train", {"prompt": mark})


def _weights(record: Mapping[str, Any], of_turns: Sequence[float]) -> dict[str, Any]:
    weight = _number(record, "weight")
    if weight is not None and weight < 0:
        raise ChatError(f"weight must be 0 or more, got {weight}")
    weights = [(1.0 if weight is None else weight) * own for own in of_turns]
    if not any(weights):
        raise ChatError("every weight is 0: there is nothing to learn; leave the line out")
    return {} if all(own == 1.0 for own in weights) else {"turn_weights": weights}


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ChatError(f"{name} must be a number, got {json.dumps(value)[:40]}")
    return float(value)


def _truth(record: Mapping[str, Any], name: str) -> bool | None:
    value = record.get(name)
    if not isinstance(value, bool | None):
        raise ChatError(f"{name} must be true or false, got {json.dumps(value)[:40]}")
    return value


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    if name in _INSTEAD:
        return f"{what} is not known here: {_INSTEAD[name]}"
    return f"{what} is not known here.{did_you_mean(name, known)} Leave it out, or put it into the metadata of the chat"


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
