"""Mixture: shares, and draws that are a function of the seed alone."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from agentrl.rollout.sources.mixture import Mixture
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
