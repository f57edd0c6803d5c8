"""Prefetch: the order in which groups began, the bound on their age, exact resume, and nothing left running."""

from __future__ import annotations

import asyncio
import json

import pytest

from agentrl.rollout.sources.mixed.mixture import Mixture
from agentrl.rollout.sources.prefetch import Prefetch
from tests.rollout.sources.players import Numbered, World, ids_of

LAGS = (0, 1, 2)


def mixed(world: World, max_lag: int) -> Prefetch:
    return Prefetch(Mixture([Numbered(world, "a"), Numbered(world, "b")], [0.7, 0.3], seed=5), max_lag)


async def stage(world: World, source: Prefetch, steps: int, size: int = 2) -> tuple[list[str], int]:
    """What a stage does. Returns: the groups that it was handed, and the largest age of one in batches."""
    ids, oldest = [], 0
    for _ in range(steps):
        for group in await source.take(size):
            ids.append(group.group_id)
            oldest = max(oldest, world.trained - world.began[group.group_id])
        await asyncio.sleep(0)  # the update
        world.trained += 1
    return ids, oldest


def others() -> set[asyncio.Task[object]]:
    """Tasks that run as well as the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@pytest.mark.parametrize("max_lag", LAGS)
async def test_groups_come_in_the_order_in_which_they_began_and_none_is_too_old(max_lag: int) -> None:
    world = World()
    source = mixed(world, max_lag)
    ids, oldest = await stage(world, source, 8)
    await source.aclose()
    assert ids == await ids_of(Mixture([Numbered(World(), n) for n in "ab"], [0.7, 0.3], seed=5), [16])
    assert oldest == max_lag


@pytest.mark.parametrize("max_lag", LAGS)
async def test_takes_of_other_sizes_within_a_step_keep_order_and_bound(max_lag: int) -> None:
    """Dynamic sampling takes further groups, before the batch trains."""
    world = World()
    source = Prefetch(Numbered(world), max_lag)
    ids = []
    for step in range(8):
        for size in (4, 1 + step % 3, 1):
            for group in await source.take(size):
                ids.append(group.group_id)
                assert world.trained - world.began[group.group_id] <= max_lag
        world.trained += 1
    await source.aclose()
    assert ids == [f"g{number}" for number in range(len(ids))]


@pytest.mark.parametrize("max_lag", LAGS)
async def test_a_saved_state_goes_on_with_the_groups_of_an_uninterrupted_run(max_lag: int) -> None:
    world = World()
    uninterrupted = mixed(world, max_lag)
    whole, _ = await stage(world, uninterrupted, 8)
    await uninterrupted.aclose()

    world = World()
    killed = mixed(world, max_lag)
    first, _ = await stage(world, killed, 3)
    state = json.loads(json.dumps(killed.state_dict()))
    await killed.aclose()

    world = World()
    resumed = mixed(world, max_lag)
    resumed.load_state_dict(state)
    rest, _ = await stage(world, resumed, 5)
    await resumed.aclose()
    assert first + rest == whole


@pytest.mark.parametrize("max_lag", LAGS)
async def test_closing_cancels_what_runs_and_hands_it_out_again_later(max_lag: int) -> None:
    world = World()
    inner = Numbered(world, rounds=lambda number: 3 if number < 4 else 10**9)
    source = Prefetch(inner, max_lag)
    await stage(world, source, 2)
    before = source.state_dict()
    await asyncio.sleep(0)
    assert len(world.running) == 2 * max_lag
    await source.aclose()
    assert not world.running
    assert not others()
    assert inner.closed
    assert source.state_dict() == before == {"next": 4}


async def test_a_slow_first_group_changes_no_order() -> None:
    world = World()
    source = Prefetch(Numbered(world, rounds=lambda number: 0 if number else 200), 2)
    ids, oldest = await stage(world, source, 4)
    await source.aclose()
    assert ids == [f"g{number}" for number in range(8)]
    assert oldest == 2


@pytest.mark.parametrize("max_lag", LAGS)
async def test_a_failing_group_ends_the_take_and_leaves_nothing_running(max_lag: int) -> None:
    world = World()
    endless = Numbered(world, rounds=lambda number: 1 if number == 1 else 10**9, fails=frozenset({1}))
    source = Prefetch(endless, max_lag)
    with pytest.raises(RuntimeError, match="g1 failed"):
        await source.take(3)
    await source.aclose()
    assert not world.running
    assert not others()


async def test_a_take_that_is_cancelled_leaves_nothing_running() -> None:
    world = World()
    source = Prefetch(Numbered(world, rounds=lambda number: 10**9), 1)
    waiting = asyncio.ensure_future(source.take(2))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await source.aclose()
    assert not world.running
    assert not others()


def test_a_negative_lag_is_refused() -> None:
    with pytest.raises(ValueError, match="max_lag must be 0 or more, got -1"):
        Prefetch(Numbered(World()), -1)
