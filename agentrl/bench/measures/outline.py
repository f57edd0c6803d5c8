"""An episode reduced to the numbers that a score is made of, for stores that are too large to hold in memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any, get_args

from agentrl.bench.measures.effort import Counted, LatencySeconds, num_tokens
from agentrl.bench.measures.tools import tool_counts
from agentrl.messages import Action, Message, Served, ToolCall
from agentrl.trajectory import Task, Trajectory, Turn

_NOTHING = Turn((), Action())
_SOMETHING = (Message("user"),)


class Outlines:
    """Makes outlines; equal identities and labels of episodes are kept once. An outline takes about 1.5 kB.

    The bundled measures that a score consists of say the same of an outline as of its episode. Texts, ids, signals,
    arguments of calls and most of `info` are gone.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def of(self, episode: Trajectory) -> Trajectory:
        """The outline of an episode. One that ended in a fault keeps its turns apart: which came last matters there."""
        is_fault = episode.ending.kind == "fault"
        info = {"success": episode.info["success"]} if "success" in episode.info else {}
        return Trajectory(
            env=self._shared(episode.env.key + episode.env.version, episode.env),
            task=Task(episode.task.id, episode.task.split, {"family": episode.task.family}),
            seed=episode.seed,
            turns=[_bare(turn) for turn in episode.turns] if is_fault else _merged(episode),
            ending=self._shared(episode.ending, episode.ending),
            group_id=episode.group_id,
            episode_id=episode.episode_id,
            labels=self._shared(episode.labels, episode.labels),
            info={**info, "tool_stats": self._counts(episode)},
            fork=episode.fork,
        )

    def _counts(self, episode: Trajectory) -> Any:
        counts = tool_counts(episode)
        return self._shared(tuple((name, *sorted(of.items())) for name, of in counts.items()), counts)

    def _shared(self, key: Hashable, value: Any) -> Any:
        return self._kept.setdefault(key, value)


def _merged(episode: Trajectory) -> list[Turn]:
    """As many turns as there were, with the sums of all in the first."""
    if not episode.turns:
        return []
    latency_s = LatencySeconds().of(episode)
    action = Action(
        tool_calls=_malformed(call for turn in episode.turns for call in turn.action.tool_calls),
        usage={kind: int(n) for kind in get_args(Counted) if not math.isnan(n := num_tokens(episode, kind))},
        served=None if math.isnan(latency_s) else Served(latency_s=latency_s),
    )
    first = Turn(
        (),
        action,
        reward=episode.reward,
        reward_components=episode.reward_components,
        policy_s=sum(turn.policy_s for turn in episode.turns),
        env_s=sum(turn.env_s for turn in episode.turns),
    )
    return [first, *[_NOTHING] * (len(episode.turns) - 1)]


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
