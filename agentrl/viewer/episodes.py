"""One recorded episode as the page shows it. Owns how much of a long text is sent, and that no text steers a screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.errors import StoreError
from agentrl.messages import Message, ToolCall
from agentrl.rollout.json_lines import decode_line
from agentrl.rollout.plain_json import as_json
from agentrl.rollout.records import FormatError, trajectory_from_json
from agentrl.rollout.tool_definitions import KnownTools
from agentrl.safe_json import for_terminal
from agentrl.trajectory import Trajectory, Turn
from agentrl.viewer.index import Index
from agentrl.viewer.sources import Source

_MOST_TEXT = 50_000
_MOST_TURNS = 400
MOST_RAW_BYTES = 64 << 20


class Gone(StoreError):
    """The store was cut or replaced since it was indexed."""


def read_line(index: Index, source: Source, line: int) -> bytes:
    """The bytes of a recorded episode. Raises: KeyError if there is no such line; Gone."""
    found = index.rows(
        "SELECT offset, size, episode_id, problem FROM episodes WHERE source = ? AND line = ?", (source.id, line)
    )
    if not found:
        raise KeyError(line)
    row = found[0]
    if row["size"] > MOST_RAW_BYTES:
        raise StoreError(f"line {line} has {row['size']} bytes, and a page shows at most {MOST_RAW_BYTES}")
    try:
        with source.store.open("rb") as file:
            file.seek(row["offset"])
            text = file.read(row["size"])
    except FileNotFoundError:
        raise Gone(f"line {line} is no longer in the store") from None
    if len(text) != row["size"] or not text.endswith(b"\n"):
        raise Gone(f"line {line} is no longer in the store")
    if row["problem"]:
        raise StoreError(f"line {line} {row['problem']}")
    return text


def read_episode(index: Index, source: Source, line: int) -> Trajectory:
    """A recorded episode. Raises: KeyError if there is no such line; StoreError if it cannot be read."""
    text = read_line(index, source, line)
    try:
        return trajectory_from_json(decode_line(text), KnownTools(source.store).of)
    except (FormatError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"line {line} is no trajectory: {type(error).__name__}: {error}") from None


def episode_json(episode: Trajectory) -> dict[str, Any]:
    """An episode for the page: texts that are safe to show, cut where they are very long."""
    turns = episode.turns[:_MOST_TURNS]
    return {
        "episode_id": safe(episode.episode_id),
        "env": safe(str(episode.env)),
        "env_id": safe(episode.env.id),
        "env_version": safe(episode.env.version),
        "task": safe(episode.task.id),
        "split": safe(episode.task.split),
        "task_data": safe(_json(episode.task.data)),
        "seed": str(episode.seed),
        "status": episode.status,
        "ending": {"kind": episode.ending.kind, "detail": safe(episode.ending.detail), "who": episode.ending.who},
        "reward": episode.reward,
        "components": {safe(name): value for name, value in episode.reward_components.items()},
        "success": episode.success,
        "stage": safe(episode.labels.stage),
        "step": episode.labels.step,
        "mode": episode.labels.mode,
        "attempt": episode.labels.attempt,
        "superseded": episode.labels.superseded,
        "group_id": safe(episode.group_id),
        "fork": None if episode.fork is None else {"episode_id": safe(episode.fork[0]), "turn": episode.fork[1]},
        "info": safe(_json(episode.info)),
        "tools": tools_json(episode.tools),
        "turns": [turn_json(turn, own=number >= episode.first_own_turn) for number, turn in enumerate(turns)],
        "turns_left_out": len(episode.turns) - len(turns),
        "final": messages_json(turns[-1].next_observation) if turns else [],
        "has_tokens": any(turn.action.token_ids for turn in episode.turns),
    }


def turn_json(turn: Turn, *, own: bool) -> dict[str, Any]:
    """A turn: what was new to the policy, and what it did."""
    action = turn.action
    return {
        "observation": messages_json(turn.observation),
        "action": message_json(action.to_message()),
        "finish_reason": action.finish_reason,
        "reward": turn.reward,
        "components": {safe(name): value for name, value in turn.reward_components.items()},
        "state_key": None if turn.state_key is None else safe(turn.state_key),
        "policy_s": turn.policy_s,
        "env_s": turn.env_s,
        "tokens": len(action.token_ids or ()),
        "own": own,
    }


def messages_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages for the page."""
    return [message_json(message) for message in messages]


def message_json(message: Message) -> dict[str, Any]:
    """A message for the page."""
    return {
        "role": message.role,
        "name": safe(message.name or ""),
        "content": safe(message.content),
        "reasoning": safe(message.reasoning or ""),
        "calls": [_call_json(call) for call in message.tool_calls],
    }


def _call_json(call: ToolCall) -> dict[str, Any]:
    return {"name": safe(call.name), "arguments": safe(_json(call.arguments)), "error": safe(call.error or "")}


def tools_json(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool definitions for the page."""
    functions = [tool.get("function") or {} for tool in tools if isinstance(tool, Mapping)]
    return [
        {
            "name": safe(str(function.get("name", ""))),
            "description": safe(str(function.get("description") or "")),
            "parameters": safe(_json(function.get("parameters") or {})),
        }
        for function in functions
    ]


def safe(text: str) -> str:
    """A text that is shown: control characters and marks of direction are escaped, and a long one is cut."""
    if len(text) > _MOST_TEXT:
        text = f"{text[:_MOST_TEXT]}\n… {len(text) - _MOST_TEXT:,} more characters are in the raw record"
    return for_terminal(text)


def _json(value: Any) -> str:
    return json.dumps(as_json(value), ensure_ascii=False, default=str)
