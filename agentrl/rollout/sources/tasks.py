"""Groups played on an environment's tasks, in an order that is a function of the seed alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.sources.base import Source, State
from agentrl.seeds import Purpose, integer, sequence
from agentrl.trajectory import EnvRef, Labels, Task, TrajectoryGroup


class TaskOrder:
    """An endless order of tasks: every epoch is a new permutation, all of it a function of the seed."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        if not tasks:
            raise ValueError("the train split is empty: there is nothing to train on")
        self._tasks, self._seed = tasks, seed
        self._epoch, self._order = -1, np.empty(0, int)

    def take(self, cursor: int, count: int) -> list[Task]:
        """The tasks at positions `cursor` to `cursor + count` of the order."""
        return [self._at(position) for position in range(cursor, cursor + count)]

    def _at(self, position: int) -> Task:
        epoch, index = divmod(position, len(self._tasks))
        if epoch != self._epoch:
            rng = np.random.default_rng(sequence(self._seed, Purpose.TASK_ORDER, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._tasks))
        return self._tasks[int(self._order[index])]


class Plays(Protocol):
    """What plays requests: `Rollouts`, or one that shows demonstrations."""

    async def run(self, requests: Iterable[GroupRequest], *, judged: bool = True) -> list[TrajectoryGroup]: ...
    async def aclose(self) -> None: ...


class Player(Plays, Protocol):
    """What plays the episodes of a run: `Rollouts`, or samplers in other processes.

    Attributes:
        policy: of this process.
        sampling: of every turn; None is the policy's own.
        max_concurrency: most episodes under way.
    """

    @property
    def policy(self) -> Policy: ...
    @property
    def sampling(self) -> SamplingParams | None: ...
    @property
    def max_concurrency(self) -> int: ...

    def check_faults(self, groups: Iterable[TrajectoryGroup]) -> None: ...


class TaskGroups(Source):
    """Plays a group of episodes on each task.

    Args:
        rollouts: plays them; stays open unless `owns`.
        env: which environment; or a function of a group's number, for limits that change as training goes on.
        tasks: of it.
        group_size: episodes of each task.
        seed: of the order and of the episodes.
        labels: recorded on each episode.
        name: begins each group's id; needed where several sources of one run are mixed.
        greedy: play one further episode of each group greedily, as a baseline.
        owns: close the rollouts with the source.
        branches: episodes of each group that begin with the likeliest first tokens.
    """

    def __init__(
        self,
        rollouts: Plays,
        env: EnvRef | Callable[[int], EnvRef],
        tasks: Sequence[Task],
        *,
        group_size: int,
        seed: int,
        labels: Labels = Labels(),  # noqa: B008 (frozen)
        name: str = "",
        greedy: bool = False,
        owns: bool = False,
        branches: int = 0,
    ) -> None:
        self._rollouts, self._size, self._seed = rollouts, group_size, seed
        self._env = (lambda _: env) if isinstance(env, EnvRef) else env
        self._order, self._labels, self._name = TaskOrder(tasks, seed), labels, name
        self._greedy, self._owns, self._branches = greedy, owns, branches
        self._next = 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        first, self._next = self._next, self._next + n
        # One group alone cannot tell a broken task from a broken environment: the stage judges its whole step.
        return self._rollouts.run(self._requests(first, self._order.take(first, n)), judged=n > 1)

    def _requests(self, first: int, tasks: Sequence[Task]) -> list[GroupRequest]:
        return [
            GroupRequest(
                task,
                integer(self._seed, Purpose.GROUPS, position),
                self._size,
                f"{self._name}{position}",
                self._labels,
                self._env(position),
                self._greedy,
                branches=self._branches,
            )
            for position, task in enumerate(tasks, start=first)
        ]

    def state_dict(self) -> State:
        return {"next": self._next}

    def load_state_dict(self, state: State) -> None:
        self._next = state["next"]

    async def aclose(self) -> None:
        if self._owns:
            await self._rollouts.aclose()
