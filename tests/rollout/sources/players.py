"""A source of numbered groups for the tests of other sources: it plays nothing, and notes what began and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentrl.rollout.sources.base import Source, State, gathered
from agentrl.trajectory import TrajectoryGroup


@dataclass
class World:
    """What has happened so far.

    Attributes:
        trained: batches that were trained on.
        began: group id -> `trained` when it began.
        running: groups that began and have not ended.
    """

    trained: int = 0
    began: dict[str, int] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)


class Numbered(Source):
    """Groups `NAME0`, `NAME1`, ...; each takes a number of rounds of the event loop.

    Args:
        rounds: of the group of a number; by default later groups end sooner.
        fails: numbers of groups that raise.
    """

    def __init__(
        self,
        world: World,
        name: str = "g",
        *,
        rounds: Callable[[int], int] = lambda number: 3 + 5 * (-number % 7),
        fails: frozenset[int] = frozenset(),
    ) -> None:
        self._world, self._name, self._rounds, self._fails = world, name, rounds, fails
        self.next = 0
        self.closed = False

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        first, self.next = self.next, self.next + n
        return gathered([self._play(number) for number in range(first, first + n)])

    async def _play(self, number: int) -> TrajectoryGroup:
        name = f"{self._name}{number}"
        self._world.began.setdefault(name, self._world.trained)
        self._world.running.add(name)
        try:
            for _ in range(self._rounds(number)):
                await asyncio.sleep(0)
            if number in self._fails:
                raise RuntimeError(f"{name} failed")
        finally:
            self._world.running.discard(name)
        return TrajectoryGroup(name, [])

    def state_dict(self) -> State:
        return {"next": self.next}

    def load_state_dict(self, state: State) -> None:
        self.next = state["next"]

    async def aclose(self) -> None:
        self.closed = True


async def ids_of(source: Source, sizes: list[int]) -> list[str]:
    """The ids of the groups of takes of these sizes, one after another."""
    return [group.group_id for size in sizes for group in await source.take(size)]
