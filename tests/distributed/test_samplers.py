"""The order, the age and the loss of groups, with workers that end in any order."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.distributed.samplers import Samplers
from agentrl.errors import ModelError, RolloutError
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.sources.prefetch import Prefetch
from agentrl.rollout.sources.tasks import TaskGroups
from agentrl.trajectory import EnvRef, Task
from tests.distributed.fakes import FakePlayer, FakeWorkers

TASKS = [Task(f"t{number}") for number in range(7)]
REQUESTS = [GroupRequest(task, 0) for task in TASKS]


def samplers_of(workers: FakeWorkers, count: int = 2, *, restarts: int = 3, slots: int = 4) -> Samplers:
    return Samplers(FakePlayer(slots), workers, count, restarts=restarts, version=0)


@pytest.mark.parametrize(("max_lag", "loss"), [(0, 0.0), (1, 0.0), (1, 0.05), (3, 0.02)])
async def test_in_1000_takes_no_token_is_older_than_max_lag_and_groups_come_in_order(max_lag: int, loss: float) -> None:
    """Groups end in any order, and workers are lost; a take means that the last batch has trained."""
    taken, oldest = list[str](), 0
    async with samplers_of(FakeWorkers(max_lag, loss=loss), 3, restarts=50) as samplers:
        source = Prefetch(TaskGroups(samplers, EnvRef("fake"), TASKS, group_size=1, seed=0), max_lag)
        for version in range(1000):
            groups = await source.take(2)
            taken += [group.group_id for group in groups]
            lags = [version - v for g in groups for t in g.trajectories for v in t.turns[0].action.versions or ()]
            assert min(lags) >= 0
            assert max(lags) <= max_lag
            oldest = max(oldest, *lags)
            samplers.publish(version + 1)
        await source.aclose()
        restarts = samplers.metrics["scale/restarts"]
    assert taken == [str(number) for number in range(2000)]
    assert oldest == max_lag, "the bound is reached, so the test can see it broken"
    assert (restarts > 0) == (loss > 0)


async def test_groups_begin_in_the_order_of_their_admission_in_as_many_slots_as_there_are() -> None:
    workers = FakeWorkers()
    async with samplers_of(workers, 2, slots=4) as samplers:
        groups = await samplers.run(REQUESTS)
    assert [group.group_id for group in groups] == [request.group_id for request in REQUESTS] == workers.begun


async def test_workers_start_with_the_first_group_and_end_with_the_samplers() -> None:
    workers = FakeWorkers()
    async with samplers_of(workers) as samplers:
        samplers.publish(1)
        workers.version = 1  # what they then take from the trainer
        assert await samplers.run([]) == []
        assert workers.made == 0
        await samplers.run(REQUESTS[:1])
    assert workers.made == workers.closed == 2


async def test_the_trainers_runner_judges_faults_of_whole_batches_only() -> None:
    player = FakePlayer()
    async with Samplers(player, FakeWorkers(), 1, restarts=0, version=0) as samplers:
        await samplers.run(REQUESTS[:1], judged=False)
        assert player.checked == []
        await samplers.run(REQUESTS[1:3])
    assert player.checked == [request.group_id for request in REQUESTS[1:3]]


async def test_a_group_that_ends_every_worker_is_named_and_the_others_are_played() -> None:
    workers = FakeWorkers()
    workers.always_lost = "t2"
    async with samplers_of(workers, restarts=1, slots=8) as samplers:
        others = asyncio.ensure_future(samplers.run(REQUESTS[3:]))
        with pytest.raises(RolloutError, match=r"2 samplers ended while they played group 't2@0' of task 't2'.*killed"):
            await samplers.run([REQUESTS[2]])
        assert len(await others) == 4
        assert workers.begun.count("t2@0") == 2


async def test_samplers_that_cannot_begin_end_the_run_with_their_error() -> None:
    workers = FakeWorkers()
    workers.broken = ModelError("no chat format is proved right")
    async with samplers_of(workers) as samplers:
        with pytest.raises(ModelError, match="no chat format"):
            await samplers.run(REQUESTS)
        with pytest.raises(ModelError, match="no chat format"):
            await samplers.run(REQUESTS)


async def test_what_is_cancelled_stops_on_the_workers_and_others_go_on() -> None:
    workers = FakeWorkers(longest=1_000_000)
    async with samplers_of(workers, 1, slots=1) as samplers:
        slow = asyncio.ensure_future(samplers.run(REQUESTS[:1]))
        while not workers.begun:
            await asyncio.sleep(0.001)
        workers.longest = 3
        slow.cancel()
        groups = await samplers.run(REQUESTS[1:2])
    assert slow.cancelled()
    assert [group.group_id for group in groups] == ["t1@0"]


async def test_they_say_what_is_under_way_and_why_the_last_worker_was_lost() -> None:
    workers = FakeWorkers()
    workers.duration = lambda request: 10**9  # type: ignore[method-assign]
    async with samplers_of(workers, 2, slots=2, restarts=50) as samplers:
        assert samplers.state("fakes") is None  # nothing has started
        playing = asyncio.ensure_future(samplers.run(REQUESTS))
        while (found := await asyncio.to_thread(samplers.state, "fakes")) is None or found.groups < 2:
            await asyncio.sleep(0)
        assert (found.by, found.episodes, found.groups, found.waiting) == ("fakes", 2, 2, 5)
        assert [(one.number, one.condition, one.groups) for one in found.workers] == [(0, "ready", 1), (1, "ready", 1)]
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        del workers.duration  # type: ignore[misc]
        workers.loss = 0.5
        await samplers.run(REQUESTS)
        found = await asyncio.to_thread(samplers.state, "fakes")
        assert found is not None
        assert (found.groups, found.waiting, found.last_loss) == (0, 0, "the worker was killed")
        assert found.restarts == samplers.metrics["scale/restarts"]
