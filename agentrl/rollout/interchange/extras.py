"""What an episode holds that no conversation format has a place for, as plain JSON. Owns the keys of that JSON.

Each format keeps it where it allows fields of others, so that an episode that was exported comes back the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeGuard

from msgspec import structs, to_builtins

from agentrl.messages import Action, Message, TokenSignals, ToolCall
from agentrl.rollout.json_lines import canonical, decode_line, encode_line
from agentrl.rollout.plain_json import as_json
from agentrl.rollout.records import check_format, trajectory_from_json, trajectory_record
from agentrl.rollout.sources.chat_file import IMPORTED, ChatError
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

MARK = "agentrl_format"
"""A key of the same object: AgentRL wrote its other fields, in this format."""
_FORMAT = 2
_OF_EPISODES = ("env", "task", "seed", "ending", "group_id", "episode_id", "labels", "info", "fork")
_OF_ACTIONS = ("versions", "finish_reason", "usage")
Tools = Sequence[Mapping[str, Any]]


def own_version() -> str:
    """The version of the installed package; empty where none is installed."""
    try:
        return version("agentrl")
    except PackageNotFoundError:
        return ""


def episode_extra(episode: Trajectory) -> dict[str, Any]:
    """All of an episode but its turns and tools."""
    record = decode_line(encode_line(trajectory_record(replace(episode, turns=[]))))
    score = {"status": episode.status, "reward": episode.reward, "success": episode.success}
    return {MARK: _FORMAT, **score, **{name: record[name] for name in _OF_EPISODES}}


def turn_extra(turn: Turn) -> dict[str, Any]:
    """All of a turn but its messages, calls and ids."""
    action, default = turn.action, Action()
    found = {name: getattr(action, name) for name in _OF_ACTIONS}
    kept = {name: value for name, value in found.items() if value != getattr(default, name)}
    errors = {str(n): call.error for n, call in enumerate(action.tool_calls) if call.error is not None}
    extra = {
        "reward": turn.reward,
        "reward_components": dict(turn.reward_components),
        "policy_s": turn.policy_s,
        "env_s": turn.env_s,
        **({} if turn.state_key is None else {"state_key": turn.state_key}),
        **({} if action.signals is None else {"signals": to_builtins(action.signals)}),
        **({"call_errors": errors} if errors else {}),
        **({} if finite_logprobs(action) == action.logprobs else {"logprobs": _logprobs_as_text(action)}),
        **kept,
    }
    found = as_json(extra)
    assert isinstance(found, dict)
    return found


def finite_logprobs(action: Action) -> tuple[float, ...] | None:
    """The log-probabilities of an action; None where one is no finite number: JSON has none, and a store holds null."""
    known = action.logprobs
    return known if known is None or all(p is not None and math.isfinite(p) for p in known) else None


def _logprobs_as_text(action: Action) -> list[str | None]:
    return [None if p is None else str(p) for p in action.logprobs or ()]


def is_own(extra: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether AgentRL wrote these fields."""
    return isinstance(extra, Mapping) and MARK in extra


def own_episode(turns: list[Turn], tools: Tools, extra: Mapping[str, Any]) -> Trajectory:
    """The episode that was exported. Raises: ChatError if it was written in another format, or fields are missing."""
    try:
        check_format({"format": extra[MARK]})
        record = {name: extra[name] for name in _OF_EPISODES}
        shell = {"format": extra[MARK], **record, "turns": [], "final_observation": [], "tools": tools}
        return replace(trajectory_from_json(shell), turns=turns)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ChatError(f"its fields of AgentRL cannot be read ({type(error).__name__}: {error})") from None


def own_turn(observation: tuple[Message, ...], action: Action, extra: Mapping[str, Any]) -> Turn:
    """The turn that was exported; the fields of AgentRL may be missing. Raises: ChatError if they cannot be read."""
    try:
        fields = {name: _tuple(extra[name]) for name in _OF_ACTIONS if name in extra}
        if action.logprobs is None and "logprobs" in extra:
            fields["logprobs"] = tuple(p if p is None else float(p) for p in extra["logprobs"])
        signals = extra.get("signals")
        if signals is not None:
            fields["signals"] = TokenSignals(**{name: _tuple(values) for name, values in signals.items()})
        errors = extra.get("call_errors", {})
        calls = [
            structs.replace(call, error=errors.get(str(n), call.error)) for n, call in enumerate(action.tool_calls)
        ]
        return Turn(
            observation,
            structs.replace(action, tool_calls=tuple(calls), **fields),
            float(extra.get("reward", 0.0)),
            extra.get("reward_components", {}),
            state_key=extra.get("state_key"),
            policy_s=float(extra.get("policy_s", 0.0)),
            env_s=float(extra.get("env_s", 0.0)),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ChatError(f"the fields of a turn cannot be read ({type(error).__name__}: {error})") from None


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def foreign_episode(
    turns: list[Turn], tools: Tools, name: str, *, task: str = "", ending: Ending | None = None, **info: Any
) -> Trajectory:
    """An episode that another system played: it can be read and trained on, and not played again.

    Args:
        name: of the episode.
        task: its name; episodes without one are of the same task if they begin alike.
        ending: by default the answer, or the tool that was called last.
        info: what else is known of it.
    Raises: ChatError if no turn is the assistant's.
    """
    if not turns:
        raise ChatError("holds no turn of an assistant: there is nothing to import")
    mark = blake2b(canonical([turns[0].observation, tools]), digest_size=8).hexdigest()
    found = Task(task or f"prompt-{mark}", "train", {"prompt": mark})
    ended = ending or Ending("tool" if turns[-1].action.tool_calls else "answer")
    labels = Labels(IMPORTED, mode="demonstration")
    ref = EnvRef(IMPORTED)
    return Trajectory(ref, found, 0, turns, ended, found.id, name, labels, {"rewarded": False, **info}, tools)


def call_of(name: Any, arguments: Any, call_id: Any) -> ToolCall:
    """A call as another system wrote it. Raises: ChatError."""
    if not isinstance(name, str) or not isinstance(call_id, str) or not isinstance(arguments, Mapping):
        raise ChatError(f"a call needs a name, an id and arguments that are an object, got {name!r} and {call_id!r}")
    return ToolCall(name, dict(arguments), call_id)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name the part of a document in what is wrong with it.

    Raises: ChatError, also where a value is of another type.
    """
    try:
        yield
    except ChatError as error:
        raise ChatError(f"{name}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ChatError(f"{name}: cannot be read ({type(error).__name__}: {error})") from None


class Conversing:
    """Turns from a conversation, message by message.

    Attributes:
        turns: so far.
        waiting: messages since the last turn.
    """

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.waiting: list[Message] = []

    def act(self, action: Action, extra: Mapping[str, Any]) -> None:
        """The assistant speaks. Raises: ChatError if the fields of AgentRL cannot be read."""
        turn = own_turn(self._settle(), action, extra)
        self.turns.append(turn)

    def end(self) -> list[Turn]:
        """All turns."""
        self._settle()
        return self.turns

    def _settle(self) -> tuple[Message, ...]:
        observation, self.waiting = tuple(self.waiting), []
        if self.turns:
            self.turns[-1].next_observation = observation
        return observation
