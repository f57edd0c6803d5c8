"""Groups on tasks that are neither too hard nor too easy for the model as it is, from remembered pass rates."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentrl.config import Fraction, Share
from agentrl.rollout.sources.base import State
from agentrl.rollout.sources.tasks import TaskGroups, TaskOrder
from agentrl.seeds import Purpose, sequence
from agentrl.trajectory import Task, TrajectoryGroup, counted_successes


@dataclass(frozen=True)
class Curriculum:
    """Tasks are drawn from a band of pass rates: the running share of a task's episodes that solved it.

    Attributes:
        band: the lowest and the highest pass rate.
        explore: share of the draws that take a task that was not played yet, or, where all were, the one that was
            played longest ago: what was too hard may no longer be. Where no task is in the band, every draw does so.
        update: weight of a new group in its task's pass rate; 1 remembers the last group alone.
    """

    band: tuple[Fraction, Fraction] = (0.2, 0.8)
    explore: Fraction = 0.25
    update: Share = 0.5

    def __post_init__(self) -> None:
        if self.band[0] > self.band[1]:
            raise ValueError(f"band must be (lowest, highest), got {self.band}")


@dataclass
class _Seen:
    """A task that was played: its pass rate, None while no episode of it counted, and the number of its last group."""

    task: Task
    rate: float | None
    last: int


class PassRates:
    """What is remembered of each task, and the draws from it: a function of the seed, the number and what was seen.

    Args:
        tasks: of the split.
        settings: the band.
        seed: of the draws.
    """

    def __init__(self, tasks: Sequence[Task], settings: Curriculum, seed: int) -> None:
        self._tasks, self._order, self._settings, self._seed = tasks, TaskOrder(tasks, seed), settings, seed
        self._fresh = 0
        self._seen: dict[str, _Seen] = {}
        self._under_way: dict[int, Task] = {}
        self._ended: dict[int, float | None] = {}

    def draw(self, number: int) -> Task:
        """The task of a group. No task is drawn again before its group has ended, unless no other is left."""
        rng = np.random.default_rng(sequence(self._seed, Purpose.CURRICULUM, number))
        busy = {task.id for task in self._under_way.values()}
        free = [seen for name, seen in self._seen.items() if name not in busy]
        low, high = self._settings.band
        fit = [seen for seen in free if seen.rate is not None and low <= seen.rate <= high]
        if rng.random() < self._settings.explore or not fit:
            task = self._unplayed() or self._oldest(free) or self._tasks[int(rng.integers(len(self._tasks)))]
        else:
            task = fit[int(rng.integers(len(fit)))].task
        self._under_way[number] = task
        return task

    def _unplayed(self) -> Task | None:
        if self._fresh >= len(self._tasks):
            return None
        (task,) = self._order.take(self._fresh, 1)
        self._fresh += 1
        return task

    def _oldest(self, free: Sequence[_Seen]) -> Task | None:
        return min(free, key=lambda seen: seen.last).task if free else None

    def ended(self, number: int, rate: float | None) -> None:
        """Note the pass rate of a group, None if no episode counts. It is remembered by `remember`."""
        self._ended[number] = rate

    def remember(self) -> None:
        """Take the noted groups into the pass rates, in the order of their numbers, whichever ended first."""
        for number in sorted(self._ended):
            task, rate = self._under_way.pop(number), self._ended.pop(number)
            before = self._seen.get(task.id)
            if before is not None and before.rate is not None:
                rate = before.rate if rate is None else before.rate + self._settings.update * (rate - before.rate)
            self._seen[task.id] = _Seen(task, rate, number)

    def state_dict(self) -> State:
        """After the groups that have ended."""
        self.remember()
        return {"fresh": self._fresh, "seen": {name: [seen.rate, seen.last] for name, seen in self._seen.items()}}

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict`."""
        by_id = {task.id: task for task in self._tasks} if state["seen"] else {}
        self._fresh = state["fresh"]
        self._seen = {name: _Seen(by_id[name], rate, last) for name, (rate, last) in state["seen"].items()}
        self._under_way, self._ended = {}, {}


class CurriculumGroups(TaskGroups):
    """Plays a group on each task that `PassRates` draws. A call of `take` sees the groups that have ended before it.

    Args:
        rollouts, env, tasks, more: as of `TaskGroups`.
        curriculum: the band.
        seed: of the draws and of the episodes.
    """

    def __init__(
        self, rollouts: Any, env: Any, tasks: Sequence[Task], *, curriculum: Curriculum, seed: int, **more: Any
    ) -> None:
        super().__init__(rollouts, env, tasks, seed=seed, **more)
        self._rates = PassRates(tasks, curriculum, seed)

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        first, self._next = self._next, self._next + n
        self._rates.remember()
        tasks = [self._rates.draw(number) for number in range(first, first + n)]
        return self._noted(first, self._rollouts.run(self._requests(first, tasks), judged=n > 1))

    async def _noted(self, first: int, groups: Awaitable[list[TrajectoryGroup]]) -> list[TrajectoryGroup]:
        found = await groups
        for number, group in enumerate(found, start=first):
            self._rates.ended(number, pass_rate_of(group))
        return found

    def state_dict(self) -> State:
        return {**super().state_dict(), "rates": self._rates.state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._rates.load_state_dict(state["rates"])


def pass_rate_of(group: TrajectoryGroup) -> float | None:
    """The share of the episodes that solved the task, of those that `counted_successes` counts; None where none is."""
    solved = counted_successes(group.trajectories)
    return sum(solved) / len(solved) if solved else None
