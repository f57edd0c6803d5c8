"""Mixture: shares, and draws that are a function of the seed alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable

import pytest

from agentrl.messages import Action
from agentrl.rollout.sources.base import Source, State, gathered
from agentrl.rollout.sources.mixed.mixture import Mixture
from agentrl.rollout.sources.mixed.weighting import Difficulty, Progress, Weighting
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn
from tests.rollout.sources.players import Numbered, World, ids_of


def mixture(seed: int = 0, weights: tuple[float, ...] = (3.0, 1.0), slow: int = 1) -> Mixture:
    world = World()
    return Mixture([Numbered(world, name, rounds=lambda number: slow) for name in "ab"[: len(weights)]], weights, seed)


async def test_each_part_has_its_share() -> None:
    ids = await ids_of(mixture(weights=(3.0, 1.0)), [2000])
    counts = Counter(name[0] for name in ids)
    # 1500 of 2000 are expected, with a standard deviation of 19.4.
    assert abs(counts["a"] - 1500) < 4 * 19.4
    assert counts["a"] + counts["b"] == 2000


async def test_every_part_goes_on_where_it_was() -> None:
    ids = await ids_of(mixture(), [7, 1, 12])
    for name in "ab":
        own = [group for group in ids if group.startswith(name)]
        assert own == [f"{name}{number}" for number in range(len(own))]


async def test_the_draws_depend_on_the_seed_and_the_number_of_the_group_alone() -> None:
    whole = await ids_of(mixture(seed=4), [20])
    assert await ids_of(mixture(seed=4, slow=50), [1] * 20) == whole
    assert await ids_of(mixture(seed=4), [3, 4, 13]) == whole
    assert await ids_of(mixture(seed=5), [20]) != whole
    assert await ids_of(mixture(seed=4, weights=(30.0, 10.0)), [20]) == whole


async def test_calls_may_overlap() -> None:
    source = mixture(seed=4)
    first, second = source.take(5), source.take(5)
    later, sooner = await second, await first
    assert [group.group_id for group in (*sooner, *later)] == await ids_of(mixture(seed=4), [10])


async def test_a_saved_state_goes_on_with_the_same_groups() -> None:
    source = mixture(seed=4)
    first = await ids_of(source, [9])
    resumed = mixture(seed=4)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert first + await ids_of(resumed, [11]) == await ids_of(mixture(seed=4), [20])


async def test_a_failing_group_stops_the_others() -> None:
    world = World()
    parts = [
        Numbered(world, "a", fails=frozenset({0}), rounds=lambda n: 1),
        Numbered(world, "b", rounds=lambda n: 10**9),
    ]
    with pytest.raises(RuntimeError, match="a0 failed"):
        await Mixture(parts, [1.0, 1.0], seed=0).take(20)
    assert not world.running


async def test_closing_closes_the_parts() -> None:
    parts = [Numbered(World()), Numbered(World())]
    await Mixture(parts, [1.0, 1.0], seed=0).aclose()
    assert [part.closed for part in parts] == [True, True]


@pytest.mark.parametrize("weights", [(), (1.0,), (1.0, 0.0), (1.0, -1.0)])
def test_weights_that_make_no_mixture_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a positive weight for each part"):
        Mixture([Numbered(World()), Numbered(World())], weights, seed=0)


class Rated(Source):
    """Groups of four episodes with the pass rates of a list, then with its last one for ever."""

    def __init__(self, name: str, rates: list[float]) -> None:
        self._name, self._rates, self._next = name, rates, 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        first, self._next = self._next, self._next + n
        return gathered([self._play(number) for number in range(first, first + n)])

    async def _play(self, number: int) -> TrajectoryGroup:
        rate = self._rates[min(number, len(self._rates) - 1)]
        turns = [[Turn((), Action("x"), float(i < 4 * rate))] for i in range(4)]
        episodes = [Trajectory(EnvRef("test/T-v0"), Task("t"), 0, own, Ending("answer")) for own in turns]
        return TrajectoryGroup(f"{self._name}{number}", episodes)

    def state_dict(self) -> State:
        return {"next": self._next}

    def load_state_dict(self, state: State) -> None:
        self._next = state["next"]


def rated(weighting: Weighting, *rates: list[float]) -> Mixture:
    parts = [Rated(name, own) for name, own in zip("abc", rates, strict=False)]
    return Mixture(parts, [1.0] * len(parts), seed=2, weighting=weighting)


async def test_the_share_follows_what_is_remembered_when_take_is_called() -> None:
    source = rated(Difficulty(groups=8, explore=0.0), [0.5], [1.0])
    first = source.take(40)
    assert source.shares == [0.5, 0.5], "no group has ended"
    await first
    assert source.shares == [1.0, 0.0]
    assert {group[0] for group in await ids_of(source, [40])} == {"a"}


async def test_a_part_that_changes_is_drawn_more_often() -> None:
    source = rated(Progress(groups=8, explore=0.2), [0.0] * 8 + [0.75], [0.5])
    await source.take(16)
    counts = Counter(name[0] for name in await ids_of(source, [6]))
    assert source.shares[0] == pytest.approx(0.9)
    assert counts["a"] > counts["b"]


@pytest.mark.parametrize("weighting", [Difficulty(groups=4), Progress(groups=4)])
async def test_a_resumed_mixture_remembers_and_draws_the_same(weighting: Weighting) -> None:
    rates = [0.0, 0.25, 0.5, 0.75, 1.0], [0.5], [1.0, 0.0, 1.0, 0.0]
    whole = rated(weighting, *rates)
    expected = await ids_of(whole, [6] * 8)
    begun = rated(weighting, *rates)
    first = await ids_of(begun, [6] * 3)
    resumed = rated(weighting, *rates)
    resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    assert first + await ids_of(resumed, [6] * 5) == expected
    assert resumed.shares == whole.shares
