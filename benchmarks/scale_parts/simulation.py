"""A simulation of the trainer, its samplers and what goes between them, event by event. Runs nothing of AgentRL.

The trainer asks for batches of groups, as many ahead as the lag allows, waits for the oldest, learns from it, and packs
new weights. One thread of it, the driver, sends groups and weights to samplers and takes groups back, one message after
the other. A sampler plays some episodes at once, and is given a group when it has fewer; it stands still while it
unpacks weights.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

WARM_STEPS = 3
"""Steps at the beginning that do not count."""


@dataclass(frozen=True)
class Costs:
    """What was measured, all in seconds.

    Attributes:
        episode_s: durations of episodes on a sampler, one of which is drawn for each episode.
        learn_s: of the learner, for each group of a step.
        fixed_s: of the trainer, for each step.
        pack_s: of the trainer, for each new version of the weights.
        unpack_s: of a sampler that takes weights.
        push_s: of the driver, for each sampler that is given weights.
        message_s: of the driver, for each group, there and back.
    """

    episode_s: tuple[float, ...]
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
    "sampling": {"episode_s": (0.0,)},
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
        episodes: of a group.
        lag: batches that may be begun ahead.
        slots: episodes that a sampler plays at once.
    """

    workers: int
    groups: int
    episodes: int = 1
    lag: int = 0
    slots: int = 1


@dataclass
class _Group:
    batch: int
    left: int


@dataclass
class _Episode:
    group: _Group
    ends: float = 0.0


@dataclass
class _Sampler:
    """Attributes: running: episodes that it was given and that have not ended, as the driver knows."""

    running: int = 0
    ready_at: float = 0.0
    waiting: deque[_Episode] = field(default_factory=deque)
    playing: list[_Episode] = field(default_factory=list)


class _Run:
    def __init__(self, costs: Costs, plan: Plan, steps: int, seed: int) -> None:
        self.costs, self.plan, self.steps = costs, plan, steps
        self.rng, self.now, self.order = random.Random(seed), 0.0, itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.driver_free_at = 0.0
        self.samplers = [_Sampler() for _ in range(plan.workers)]
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
            self.waiting.extend(_Group(self.asked, self.plan.episodes) for _ in range(self.plan.groups))
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
            self._by_driver(self.costs.push_s, partial(self._take_weights, sampler))
        self.step += 1
        self._begin_step()

    # Samplers.

    def _take_weights(self, sampler: _Sampler) -> None:
        sampler.ready_at = max(self.now, sampler.ready_at) + self.costs.unpack_s
        for episode in sampler.playing:
            episode.ends += self.costs.unpack_s

    def _give_work(self) -> None:
        """Begin waiting groups, oldest first, on the samplers with the fewest episodes."""
        free = [sampler for sampler in self.samplers if sampler.running < self.plan.slots] if self.waiting else []
        while self.waiting and free:
            sampler = min(free, key=lambda sampler: sampler.running)
            group = self.waiting.popleft()
            sampler.running += self.plan.episodes
            if sampler.running >= self.plan.slots:
                free.remove(sampler)
            self._by_driver(self.costs.message_s / 2, partial(self._begin, group, sampler))

    def _begin(self, group: _Group, sampler: _Sampler) -> None:
        sampler.waiting.extend(_Episode(group) for _ in range(self.plan.episodes))
        self._fill(sampler)

    def _fill(self, sampler: _Sampler) -> None:
        while sampler.waiting and len(sampler.playing) < self.plan.slots:
            episode = sampler.waiting.popleft()
            episode.ends = max(self.now, sampler.ready_at) + self.rng.choice(self.costs.episode_s)
            sampler.playing.append(episode)
            self._at(episode.ends, partial(self._look, episode, sampler))

    def _look(self, episode: _Episode, sampler: _Sampler) -> None:
        """An episode ends, unless its sampler took weights meanwhile."""
        if episode.ends > self.now:
            self._at(episode.ends, partial(self._look, episode, sampler))
            return
        sampler.playing.remove(episode)
        sampler.running -= 1
        self._fill(sampler)
        episode.group.left -= 1
        if not episode.group.left:
            self._by_driver(self.costs.message_s / 2, partial(self._arrive, episode.group))
        self._give_work()

    def _arrive(self, group: _Group) -> None:
        self.left[group.batch] -= 1
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
