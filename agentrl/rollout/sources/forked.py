"""Episodes that are forked: chosen turns of a source's episodes, from which further episodes are played."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agentrl.config import Count
from agentrl.rollout.requests import Fork, GroupRequest
from agentrl.rollout.sources.base import Source, State
from agentrl.rollout.sources.tasks import Plays
from agentrl.trajectory import Trajectory, TrajectoryGroup, Turn


@dataclass(frozen=True)
class Forks:
    """Which turns of the episodes are forked, and how often.

    The first turn is not: the episodes of a group share the state before it.

    Attributes:
        continuations: episodes that are played on from each chosen turn.
        turns: `random` ones; `every` turn; or `entropy`: those with the largest mean negative log-probability of their
            sampled tokens, an estimate of the policy's entropy there that depends on what was sampled.
        most: turns that are chosen of an episode; `every` does not read it.
    """

    continuations: Count = 2
    turns: Literal["random", "every", "entropy"] = "random"
    most: Count = 2

    def chosen(self, trajectory: Trajectory) -> list[int]:
        """The turns of an episode that are forked, in order; a function of the episode alone.

        Of an episode that does not train, or that continues another one: none.
        """
        turns = range(1, len(trajectory.turns))
        if not trajectory.trains or trajectory.fork is not None:
            return []
        if self.turns == "every" or len(turns) <= self.most:
            return list(turns)
        if self.turns == "random":
            seed = (trajectory.seed, zlib.crc32(trajectory.episode_id.encode()))
            return sorted(int(t) for t in np.random.default_rng(seed).choice(turns, self.most, replace=False))
        return sorted(sorted(turns, key=lambda t: -_surprise(trajectory.turns[t]))[: self.most])


class Forked(Source):
    """Groups of a source, each with episodes that continue its own from the chosen turns.

    Args:
        source: of the groups; closed with this one.
        rollouts: plays the continuations; stays open.
        forks: which and how many.
    """

    def __init__(self, source: Source, rollouts: Plays, forks: Forks) -> None:
        self._source, self._rollouts, self._forks = source, rollouts, forks

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        return self._continued(self._source.take(n))

    async def _continued(self, taken: Awaitable[list[TrajectoryGroup]]) -> list[TrajectoryGroup]:
        groups = await taken
        return await with_continuations(self._rollouts, groups, self._forks)

    def state_dict(self) -> State:
        return self._source.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._source.load_state_dict(state)

    async def aclose(self) -> None:
        await self._source.aclose()


async def with_continuations(rollouts: Plays, groups: Sequence[TrajectoryGroup], forks: Forks) -> list[TrajectoryGroup]:
    """The groups with the continuations of their episodes, after those that they have.

    Raises: as `Rollouts.run`, but any number of faults is accepted; a continuation that is one stays in its group.
    """
    requests, owners = [], []
    for number, group in enumerate(groups):
        for trajectory in group.trajectories:
            for turn in forks.chosen(trajectory):
                requests.append(request_of(trajectory, turn, forks.continuations))
                owners.append(number)
    played = await rollouts.run(requests, judged=False) if requests else []
    added: list[list[Trajectory]] = [[] for _ in groups]
    for number, group in zip(owners, played, strict=True):
        added[number] += group.trajectories
    return [replace(group, trajectories=[*group.trajectories, *own]) for group, own in zip(groups, added, strict=True)]


def request_of(trajectory: Trajectory, turn: int, continuations: int) -> GroupRequest:
    """A request for episodes that continue one from a turn."""
    return GroupRequest(
        trajectory.task,
        trajectory.seed,
        continuations,
        f"{trajectory.episode_id}@{turn}",
        replace(trajectory.labels, attempt=0),
        trajectory.env,
        fork=Fork(trajectory, turn),
    )


def _surprise(turn: Turn) -> float:
    """The mean negative log-probability of a turn's sampled tokens, in nats; 0 where it is not known."""
    logprobs = turn.action.logprobs
    known = [p for p in logprobs or () if np.isfinite(p)]
    return -sum(known) / len(known) if known else 0.0
