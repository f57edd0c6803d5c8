"""An episode reduced to the numbers that a score is made of, for stores that are too large to hold in memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar, cast, get_args

from agentrl.bench.measures.effort import Counted, LatencySeconds, num_tokens
from agentrl.bench.measures.tools import tool_counts
from agentrl.messages import Action, Message, Served, ToolCall
from agentrl.trajectory import Task, Trajectory, Turn

_Kept = TypeVar("_Kept")
_Plain = TypeVar("_Plain", str, int, float)
_MOST_KEPT = 4096
_NOTHING = Turn((), Action())
_SOMETHING = (Message("user"),)


class Outlines:
    """Makes outlines; what is equal in several episodes is kept once. An outline takes about 1 kB.

    The bundled measures that a score consists of say the same of an outline as of its episode. Texts, ids, signals,
    arguments of calls and most of `info` are gone.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def of(self, episode: Trajectory) -> Trajectory:
        """The outline of an episode. One that ended in a fault keeps its turns apart: which came last matters there."""
        is_fault = episode.ending.kind == "fault"
        task = Task(episode.task.id, episode.task.split, self._equal({"family": episode.task.family}))
        return Trajectory(
            env=self._shared(episode.env.key + episode.env.version, episode.env),
            task=task,
            seed=episode.seed,
            turns=[_bare(turn) for turn in episode.turns] if is_fault else self._merged(episode),
            ending=self._shared(episode.ending, episode.ending),
            group_id=episode.group_id,
            labels=self._shared(episode.labels, episode.labels),
            info=self._info(episode),
            fork=episode.fork,
        )

    def _info(self, episode: Trajectory) -> Mapping[str, Any]:
        counts, success = tool_counts(episode), episode.info.get("success")
        key = success, tuple((name, *sorted(of.items())) for name, of in counts.items())
        return self._shared(key, {"success": success, "tool_stats": counts})

    def _merged(self, episode: Trajectory) -> list[Turn]:
        """As many turns as there were, with the sums of all in the first."""
        if not episode.turns:
            return []
        latency_s = LatencySeconds().of(episode)
        known = {kind: num_tokens(episode, kind) for kind in get_args(Counted)}
        action = Action(
            tool_calls=_malformed(call for turn in episode.turns for call in turn.action.tool_calls),
            usage=self._equal({kind: int(number) for kind, number in known.items() if not math.isnan(number)}),
            served=None if math.isnan(latency_s) else Served(latency_s=latency_s),
        )
        first = Turn(
            (),
            action,
            reward=episode.reward,
            reward_components=self._equal(episode.reward_components),
            policy_s=sum(turn.policy_s for turn in episode.turns),
            env_s=sum(turn.env_s for turn in episode.turns),
        )
        return [first, *[_NOTHING] * (len(episode.turns) - 1)]

    def _equal(self, values: Mapping[str, _Plain]) -> Mapping[str, _Plain]:
        """The values as they were kept first."""
        return self._shared(tuple(values.items()), values)

    def _shared(self, key: Hashable, value: _Kept) -> _Kept:
        if len(self._kept) < _MOST_KEPT:
            return cast(_Kept, self._kept.setdefault((type(value), key), value))
        return cast(_Kept, self._kept.get((type(value), key), value))


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
