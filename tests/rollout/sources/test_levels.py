"""Levels: when the next one begins, what is remembered, and that a resumed source goes on."""

from __future__ import annotations

import asyncio
import json

import pytest

from agentrl.messages import Action
from agentrl.rollout.sources.base import Source
from agentrl.rollout.sources.levels import LevelGroups, Levels
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn


class Level(Source):
    """Groups of two episodes whose pass rates are given, over and over."""

    def __init__(self, name: str, rates: list[float | None]) -> None:
        self.name, self.rates, self.next, self.closed = name, rates, 0, False

    def take(self, n):
        first, self.next = self.next, self.next + n
        return self.groups(first, n)

    async def groups(self, first, n):
        await asyncio.sleep(0)
        return [self.group(self.rates[number % len(self.rates)], number) for number in range(first, first + n)]

    def group(self, rate, number):
        ending = Ending("fault" if rate is None else "answer")
        turns = [[] if rate is None else [Turn((), Action("x"), float(i < 2 * rate))] for i in range(2)]
        return TrajectoryGroup(
            f"{self.name}-{number}", [Trajectory(EnvRef("e"), Task("t"), 0, turn, ending) for turn in turns]
        )

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]

    async def aclose(self):
        self.closed = True


SETTINGS = Levels((1, 2, 3), pass_rate=0.75, groups=4)


def source(*rates: list[float | None]) -> LevelGroups:
    return LevelGroups([Level(f"l{number}", list(own)) for number, own in enumerate(rates, 1)], SETTINGS)


async def levels(of: LevelGroups, *counts: int) -> list[str]:
    return [(await of.take(count))[0].group_id.partition("-")[0] for count in counts]


async def test_the_next_level_begins_when_the_mean_of_the_last_groups_is_reached() -> None:
    """By hand, of four: (0, 1, 1, 0.5) is 0.625; (1, 1, 0.5, 1) is 0.875."""
    made = source([0.0, 1.0, 1.0, 0.5, 1.0], [0.5], [1.0])
    assert await levels(made, *[1] * 12) == ["l1"] * 5 + ["l2"] * 7


async def test_fewer_groups_than_wanted_and_faults_say_nothing() -> None:
    made = source([1.0], [1.0, None], [0.0])
    assert await levels(made, 3, 1, 1) == ["l1", "l1", "l2"]
    made = source([None], [1.0], [1.0])
    assert await levels(made, *[4] * 5) == ["l1"] * 5


async def test_the_last_level_stays() -> None:
    assert await levels(source([1.0], [1.0], [1.0]), *[4] * 5) == ["l1", "l2", "l3", "l3", "l3"]


async def test_a_resumed_source_goes_on() -> None:
    made = source([0.5, 1.0, 1.0], [1.0], [1.0])
    await levels(made, 2, 1)
    state = json.loads(json.dumps(made.state_dict()))
    again = source([0.5, 1.0, 1.0], [1.0], [1.0])
    again.load_state_dict(state)
    assert (state["level"], state["rates"]) == (0, [0.5, 1.0, 1.0])
    taken = [[g.group_id for s in (made, again) for g in await s.take(1)] for _ in range(8)]
    assert all(one == other for one, other in taken)
    assert [one[:2] for one, _ in taken] == ["l1", *["l2"] * 4, *["l3"] * 3]
    await again.aclose()
    assert all(part.closed for part in again._parts)


def test_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two values"):
        Levels((1,))
