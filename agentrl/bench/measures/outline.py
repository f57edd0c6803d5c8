"""An episode reduced to the numbers that a score is made of, for stores that are too large to hold in memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar, cast, get_args

from agentrl.bench.measures.effort import Counted, LatencySeconds, num_tokens
from agentrl.bench.measures.tools import tool_counts
from agentrl.messages import Action, Message, Served, ToolCall
from agentrl.trajectory import Task, Trajectory, Turn

_Kept = TypeVar("_Kept")
_Plain = TypeVar("_Plain", str, int, float)
_MOST_KEPT = 4096
_COUNTED: tuple[Counted, ...] = get_args(Counted)
_MEASURED = ("latency_s", "reward", "policy_s", "env_s")
_NOTHING = Turn((), Action())
_SOMETHING = (Message("user"),)


class Outlines:
    """Makes outlines. What is equal in several episodes is kept once, and numbers in columns, so that an outline takes
    about 0.4 kB.

    The bundled measures that a score consists of say the same of an outline as of its episode. Texts, ids, signals,
    arguments of calls and most of `info` are gone.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._columns = {name: array("d") for name in (*_COUNTED, *_MEASURED)}
        self._num_turns = array("q")
        self._components: list[Mapping[str, float]] = []
        self._malformed: list[tuple[ToolCall, ...]] = []

    def of(self, episode: Trajectory) -> Trajectory:
        """The outline of an episode. One that ended in a fault keeps its turns apart: which came last matters there."""
        task = Task(episode.task.id, episode.task.split, self._equal({"family": episode.task.family}))
        parts: dict[str, Any] = {
            "env": self._shared(episode.env.key + episode.env.version, episode.env),
            "task": task,
            "seed": episode.seed,
            "ending": self._shared(episode.ending, episode.ending),
            "labels": self._shared(episode.labels, episode.labels),
            "info": self._info(episode),
            "fork": episode.fork,
        }
        if episode.ending.kind == "fault":
            return Trajectory(turns=[_bare(turn) for turn in episode.turns], **parts)
        self._add(episode)
        return _Outline(self, len(self._num_turns) - 1, parts)

    def _add(self, episode: Trajectory) -> None:
        """A row with the sums of an episode's turns."""
        measured: dict[str, float] = {
            "latency_s": LatencySeconds().of(episode),
            "reward": episode.reward,
            "policy_s": sum(turn.policy_s for turn in episode.turns),
            "env_s": sum(turn.env_s for turn in episode.turns),
        }
        for kind in _COUNTED:
            self._columns[kind].append(num_tokens(episode, kind))
        for name, value in measured.items():
            self._columns[name].append(value)
        self._num_turns.append(len(episode.turns))
        self._components.append(self._equal(episode.reward_components))
        self._malformed.append(_malformed(call for turn in episode.turns for call in turn.action.tool_calls))

    def reward(self, row: int) -> float:
        """That of an episode."""
        return self._columns["reward"][row]

    def turns(self, row: int) -> list[Turn]:
        """As many turns as an episode had, with the sums of all in the first."""
        if not self._num_turns[row]:
            return []
        numbers = {name: column[row] for name, column in self._columns.items()}
        latency_s = numbers["latency_s"]
        action = Action(
            tool_calls=self._malformed[row],
            usage={kind: int(numbers[kind]) for kind in _COUNTED if not math.isnan(numbers[kind])},
            served=None if math.isnan(latency_s) else Served(latency_s=latency_s),
        )
        first = Turn(
            (),
            action,
            reward=numbers["reward"],
            reward_components=self._components[row],
            policy_s=numbers["policy_s"],
            env_s=numbers["env_s"],
        )
        return [first, *[_NOTHING] * (self._num_turns[row] - 1)]

    def _info(self, episode: Trajectory) -> Mapping[str, Any]:
        counts, success = tool_counts(episode), episode.info.get("success")
        key = success, tuple((name, *sorted(of.items())) for name, of in counts.items())
        return self._shared(key, {"success": success, "tool_stats": counts})

    def _equal(self, values: Mapping[str, _Plain]) -> Mapping[str, _Plain]:
        """The values as they were kept first."""
        return self._shared(tuple(values.items()), values)

    def _shared(self, key: Hashable, value: _Kept) -> _Kept:
        if len(self._kept) < _MOST_KEPT:
            return cast(_Kept, self._kept.setdefault((type(value), key), value))
        return cast(_Kept, self._kept.get((type(value), key), value))


class _Outline(Trajectory):
    """A row of `Outlines`. Its field `turns` is left unset: it is made each time that it is asked for."""

    __slots__ = ("_outlines", "_row")

    def __init__(self, outlines: Outlines, row: int, parts: Mapping[str, Any]) -> None:
        self._outlines, self._row = outlines, row
        self.group_id, self.episode_id, self.tools, self.sampling = "", "", (), None
        for name, part in parts.items():
            setattr(self, name, part)

    def __getattr__(self, name: str) -> Any:
        """Called for what is not set."""
        if name == "turns":
            return self._outlines.turns(self._row)
        raise AttributeError(name)

    @property
    def reward(self) -> float:
        return self._outlines.reward(self._row)


def _bare(turn: Turn) -> Turn:
    """A turn without its texts and tokens."""
    return Turn(
        (),
        Action(finish_reason=turn.action.finish_reason, tool_calls=_malformed(turn.action.tool_calls)),
        reward=turn.reward,
        next_observation=_SOMETHING if turn.next_observation else (),
        policy_s=turn.policy_s,
        env_s=turn.env_s,
    )


def _malformed(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.name, error="malformed") for call in calls if call.error is not None)
