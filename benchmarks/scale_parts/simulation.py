"""A simulation of the trainer, its samplers and what goes between them, event by event. Runs nothing of AgentRL.

The trainer asks for batches of groups, as many ahead as the lag allows, waits for the oldest, learns from it, and packs
new weights. One thread of it, the driver, sends groups and weights to samplers and takes groups back, one message after
the other. A sampler plays some groups at once; it stands still while it unpacks weights.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

WARM_STEPS = 3
"""Steps at the beginning that do not count."""


@dataclass(frozen=True)
class Costs:
    """What was measured, all in seconds.

    Attributes:
        group_s: durations of groups on a sampler, one of which is drawn for each group.
        learn_s: of the learner, for each group of a step.
        fixed_s: of the trainer, for each step.
        pack_s: of the trainer, for each new version of the weights.
        unpack_s: of a sampler that takes weights.
        push_s: of the driver, for each sampler that is given weights.
        message_s: of the driver, for each group, there and back.
    """

    group_s: tuple[float, ...]
    learn_s: float
    fixed_s: float = 0.0
    pack_s: float = 0.0
    unpack_s: float = 0.0
    push_s: float = 0.0
    message_s: float = 0.0

    def without(self, part: str) -> Costs:
        """These costs, were one of `PARTS` free."""
        return replace(self, **_FREE[part])


_FREE: dict[str, dict[str, object]] = {
    "sampling": {"group_s": (0.0,)},
    "learner": {"learn_s": 0.0, "fixed_s": 0.0},
    "broadcast": {"pack_s": 0.0, "unpack_s": 0.0, "push_s": 0.0},
    "driver": {"message_s": 0.0},
}
PARTS = tuple(_FREE)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        workers: samplers.
        groups: of a step.
        lag: batches that may be begun ahead.
        at_once: groups that a sampler plays at once.
    """

    workers: int
    groups: int
    lag: int = 0
    at_once: int = 1


@dataclass
class _Group:
    batch: int
    ends: float = 0.0


@dataclass
class _Sampler:
    ready_at: float = 0.0
    playing: list[_Group] = field(default_factory=list)


class _Run:
    def __init__(self, costs: Costs, plan: Plan, steps: int, seed: int) -> None:
        self.costs, self.plan, self.steps = costs, plan, steps
        self.rng, self.now, self.order = random.Random(seed), 0.0, itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.driver_free_at = 0.0
        self.samplers = [_Sampler() for _ in range(plan.workers)]
        self.free = [(0, number) for number in range(plan.workers)]
        self.waiting: deque[_Group] = deque()
        self.left: dict[int, int] = {}
        self.asked, self.step, self.is_waiting = 0, 0, False
        self.ended: list[float] = []

    def run(self) -> list[float]:
        """Returns: when each step ended."""
        self._begin_step()
        while len(self.ended) < self.steps:
            self.now, _, what = heapq.heappop(self.events)
            what()
        return self.ended

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))

    def _by_driver(self, seconds: float, then: Callable[[], None]) -> None:
        self.driver_free_at = max(self.now, self.driver_free_at) + seconds
        self._at(self.driver_free_at, then)

    # The trainer.

    def _begin_step(self) -> None:
        while self.asked <= self.step + self.plan.lag:
            self.left[self.asked] = self.plan.groups
            self.waiting.extend(_Group(self.asked) for _ in range(self.plan.groups))
            self.asked += 1
        self._give_work()
        self.is_waiting = True
        self._learn_if_complete()

    def _learn_if_complete(self) -> None:
        if self.is_waiting and self.left[self.step] == 0:
            self.is_waiting = False
            learning = self.plan.groups * self.costs.learn_s + self.costs.fixed_s
            self._at(self.now + learning + self.costs.pack_s, self._end_step)

    def _end_step(self) -> None:
        self.ended.append(self.now)
        for sampler in self.samplers:
            self._by_driver(self.costs.push_s, lambda sampler=sampler: self._take_weights(sampler))  # type: ignore[misc]
        self.step += 1
        self._begin_step()

    # Samplers.

    def _take_weights(self, sampler: _Sampler) -> None:
        sampler.ready_at = max(self.now, sampler.ready_at) + self.costs.unpack_s
        for group in sampler.playing:
            group.ends += self.costs.unpack_s

    def _give_work(self) -> None:
        """Begin waiting groups, oldest first, on the samplers with the fewest."""
        while self.waiting and self.free:
            playing, number = heapq.heappop(self.free)
            group = self.waiting.popleft()
            if playing + 1 < self.plan.at_once:
                heapq.heappush(self.free, (playing + 1, number))
            self._by_driver(self.costs.message_s / 2, lambda group=group, number=number: self._begin(group, number))  # type: ignore[misc]

    def _begin(self, group: _Group, number: int) -> None:
        sampler = self.samplers[number]
        group.ends = max(self.now, sampler.ready_at) + self.rng.choice(self.costs.group_s)
        sampler.playing.append(group)
        self._at(group.ends, lambda: self._look(group, number))

    def _look(self, group: _Group, number: int) -> None:
        """A group ends, unless its sampler took weights meanwhile."""
        if group.ends > self.now:
            self._at(group.ends, lambda: self._look(group, number))
            return
        self.samplers[number].playing.remove(group)
        self._by_driver(self.costs.message_s / 2, lambda: self._arrive(group, number))

    def _arrive(self, group: _Group, number: int) -> None:
        self.left[group.batch] -= 1
        playing = [entry for entry in self.free if entry[1] == number]
        if playing:
            self.free.remove(playing[0])
            heapq.heapify(self.free)
        heapq.heappush(self.free, (playing[0][0] - 1 if playing else self.plan.at_once - 1, number))
        self._give_work()
        self._learn_if_complete()


def steps_per_s(costs: Costs, plan: Plan, *, steps: int = 30, runs: int = 1, seed: int = 0) -> float:
    """Training steps a second, those at the beginning left out.

    Args:
        steps: of each run, more than `WARM_STEPS`.
        runs: how many, each with other draws; their seconds are added up.
    """
    seconds = 0.0
    for number in range(runs):
        ended = _Run(costs, plan, steps, seed * 1_000_003 + number).run()
        seconds += ended[-1] - ended[WARM_STEPS - 1]
    return runs * (steps - WARM_STEPS) / seconds if seconds else float("inf")


def gains(costs: Costs, plan: Plan, **options: int) -> dict[str, float]:
    """How many times as fast the run would be, were a part free; the part with the largest gain is the bottleneck."""
    now = steps_per_s(costs, plan, **options)
    return {part: steps_per_s(costs.without(part), plan, **options) / now for part in PARTS}
