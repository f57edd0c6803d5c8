"""A file of preferences in TRL's conversational form, as groups of two. Owns the form of a line.

A line has `chosen` and `rejected`, lists of messages, and the messages before them: as `prompt`, or at the beginning of
both lists. `tools` and `margin` are optional. What both sides share is context, and does not train.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.sources.chat_file import ChatError, Conversation, conversation_of, object_of, trajectory_of
from agentrl.rollout.sources.stored import Listed
from agentrl.trajectory import Task, Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)
_FIELDS = ("prompt", "chosen", "rejected", "tools", "margin")
_MOST_SHOWN = 20


def check_preferences(path: str | Path, key: str) -> None:
    """Raise ConfigError if a file cannot be learnt from. Args: key: of the path in the configuration."""
    try:
        read_preferences(path)
    except StoreError as error:
        raise ConfigError(f"{key}: {error}") from error


def preferences(path: str | Path, *, seed: int) -> Listed:
    """The pairs of a file, over and over, each time in a new order.

    Args: seed: of the order.
    Raises: StoreError that names the lines that are no preferences.
    """
    return Listed(read_preferences(path), files=[Path(path).expanduser()], seed=seed)


def read_preferences(path: str | Path) -> list[TrajectoryGroup]:
    """A group for each line: the chosen episode, whose reward is the margin (1 without one), and the rejected one, 0.

    Raises: StoreError.
    """
    groups: list[TrajectoryGroup] = []
    bad: dict[int, str] = {}
    ignored: set[str] = set()
    try:
        with Path(path).expanduser().open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = object_of(line.removeprefix(b"\xef\xbb\xbf"))
                    ignored |= {name for name in record if name not in _FIELDS}
                    groups.append(pair_of(record, number))
                except ChatError as error:
                    bad[number] = str(error)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if bad or not groups:
        shown = "".join(f"\n  line {number}: {why}" for number, why in list(bad.items())[:_MOST_SHOWN])
        more = f"\n  and {len(bad) - _MOST_SHOWN} more" if len(bad) > _MOST_SHOWN else ""
        what = f"{len(bad)} lines of {path} are no preferences:{shown}{more}" if bad else f"{path} holds no preferences"
        raise StoreError(what)
    if ignored:
        logger.warning("%s has fields that are not used: %s", path, ", ".join(sorted(ignored)))
    return groups


def pair_of(record: Mapping[str, Any], number: int) -> TrajectoryGroup:
    """The two episodes of a line.

    Args: number: of the line; it names the group.
    Raises: ChatError.
    """
    for side in ("chosen", "rejected"):
        if isinstance(record.get(side), str):
            raise ChatError(
                f"{side} is text: give a list of messages, such as [{{'role': 'assistant', 'content': ...}}]"
            )
        if not isinstance(record.get(side), list) or not record[side]:
            raise ChatError(f"{side} must be a list of messages")
    prompt = _prompt(record)
    margin, tools = _margin(record), _tools(record)
    chosen = conversation_of([*prompt, *record["chosen"]], tools, "chosen")
    rejected = conversation_of([*prompt, *record["rejected"]], tools, "rejected")
    shared = _shared(chosen, rejected)
    if prompt and shared < len(prompt):
        raise ChatError("prompt ends with the assistant: end it where the assistant speaks")
    task = Task(f"pair-{number}", "train")
    sides = [_side(chosen, task, "chosen", margin, shared), _side(rejected, task, "rejected", 0.0, shared)]
    return TrajectoryGroup(task.id, sides, ((0, 1),))


def _prompt(record: Mapping[str, Any]) -> list[Any]:
    """The messages before both sides; empty if the sides begin with them."""
    prompt = record.get("prompt")
    if isinstance(prompt, list):
        return prompt
    begins = record["chosen"][0].get("role") if isinstance(record["chosen"][0], dict) else None
    if prompt is None or (isinstance(prompt, str) and begins != "assistant"):  # text that repeats what the sides hold
        return []
    raise ChatError("prompt must be a list of messages, such as [{'role': 'user', 'content': ...}]")


def _shared(chosen: Conversation, rejected: Conversation) -> int:
    """How many first messages both sides share, up to where the assistant speaks."""
    count = 0
    for one, other in zip(chosen.messages, rejected.messages, strict=False):
        if one != other:
            break
        count += 1
    sides = (chosen.messages, rejected.messages)
    if count in map(len, sides):
        raise ChatError("one side is the beginning of the other, or both are the same: there is nothing to prefer")
    if any(side[count].role != "assistant" for side in sides):
        raise ChatError(f"the sides differ first in their message {count}, which is not the assistant's in both")
    return count


def _side(chat: Conversation, task: Task, name: str, reward: float, shared: int) -> Trajectory:
    """One side; the shared messages are the observation of its first turn."""
    whole = trajectory_of(chat, task, f"{task.id}/{name}", reward)
    before = sum(message.role == "assistant" for message in chat.messages[:shared])
    turns = whole.turns[before:]
    turns[0].observation = chat.messages[:shared]
    return replace(whole, turns=turns, info={"success": name == "chosen"})


def _margin(record: Mapping[str, Any]) -> float:
    margin = record.get("margin")
    if margin is None:
        return 1.0
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not margin > 0:
        raise ChatError(f"margin must be a number above 0, got {json.dumps(margin)[:40]}")
    return float(margin)


def _tools(record: Mapping[str, Any]) -> Any:
    """Tools as a list, or as the JSON text of one, as TRL keeps them."""
    tools = record.get("tools")
    if not isinstance(tools, str):
        return tools
    try:
        return json.loads(tools)
    except ValueError as error:
        raise ChatError(f"tools is text that is no JSON: {error}") from None
