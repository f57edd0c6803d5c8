"""Groups of tasks: their order, what is recorded on them, resume, and how faults are judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentrl.errors import EnvFault, RolloutError
from agentrl.policy.base import SamplingParams
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.tasks import TaskGroups, TaskOrder
from agentrl.trajectory import EnvRef, Labels, Task, TrajectoryGroup
from tests.rollout.conftest import Walker

TASKS = [Task(f"t{number}", data={"low": number}) for number in range(5)]
REF = EnvRef("test/Ledger-v0")


def played(groups: list[TrajectoryGroup]) -> list[Any]:
    """What tells groups apart, down to the sampled tokens."""
    return [
        (group.group_id, t.task.id, t.seed, t.episode_id, [turn.action.token_ids for turn in t.turns])
        for group in groups
        for t in group.trajectories
    ]


@pytest.fixture
def rollouts(ledger: Any, walker: Any) -> Rollouts:
    made = Rollouts(ledger, walker, env_id=REF.id, max_concurrency=3, backoff_s=0.0)
    made._pools[REF.url, REF.key] = made.envs
    return made


def groups_of(rollouts: Rollouts, **changes: Any) -> TaskGroups:
    return TaskGroups(rollouts, REF, TASKS, **{"group_size": 2, "seed": 7, **changes})


def test_the_order_is_a_new_permutation_each_epoch() -> None:
    order = TaskOrder(TASKS, seed=3)
    names = [task.id for task in order.take(0, 50)]
    epochs = [names[first : first + 5] for first in range(0, 50, 5)]
    assert all(sorted(epoch) == [task.id for task in TASKS] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5
    assert [task.id for task in TaskOrder(TASKS, seed=3).take(33, 17)] == names[33:]
    assert [task.id for task in order.take(2, 9)] == names[2:11]
    assert [task.id for task in TaskOrder(TASKS, seed=4).take(0, 50)] != names


def test_no_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="the train split is empty"):
        TaskOrder([], seed=0)


async def test_groups_follow_the_order_of_tasks_whatever_is_taken_at_once(rollouts: Rollouts) -> None:
    async with rollouts:
        whole = await groups_of(rollouts).take(7)
        source = groups_of(rollouts)
        assert played([g for size in (1, 4, 2) for g in await source.take(size)]) == played(whole)
        assert played(await groups_of(rollouts, seed=8).take(7)) != played(whole)
    assert [g.trajectories[0].task for g in whole] == TaskOrder(TASKS, 7).take(0, 7)
    assert len({g.trajectories[0].seed for g in whole}) == 7
    for group in whole:
        first, second = group.trajectories
        assert first.seed == second.seed
        assert first.turns[0].observation == second.turns[0].observation


async def test_calls_may_overlap(rollouts: Rollouts) -> None:
    async with rollouts:
        whole = await groups_of(rollouts).take(6)
        source = groups_of(rollouts)
        first, second = source.take(2), source.take(4)
        assert source.state_dict() == {"next": 6}
        later, sooner = await second, await first
    assert played([*sooner, *later]) == played(whole)


async def test_what_is_recorded_on_each_episode(rollouts: Rollouts) -> None:
    async with rollouts:
        groups = await groups_of(rollouts, labels=Labels("rl"), name="own-").take(2)
    assert [group.group_id for group in groups] == ["own-0", "own-1"]
    episodes = [t for group in groups for t in group.trajectories]
    assert [t.episode_id for t in episodes] == ["own-0/0", "own-0/1", "own-1/0", "own-1/1"]
    assert {(t.env.id, t.labels.stage, t.labels.mode) for t in episodes} == {(REF.id, "rl", "sampled")}


async def test_a_saved_state_goes_on_with_the_same_groups(rollouts: Rollouts) -> None:
    async with rollouts:
        whole = await groups_of(rollouts).take(8)
        source = groups_of(rollouts)
        await source.take(3)
        resumed = groups_of(rollouts)
        resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
        assert played(await resumed.take(5)) == played(whole[3:])


async def test_a_group_with_a_greedy_episode_has_the_same_sampled_ones(ledger: Any) -> None:
    asked: list[SamplingParams] = []

    class Noting(Walker):
        def __init__(self) -> None:
            super().__init__()
            self.sampling = SamplingParams(temperature=0.7, top_p=0.9)

        async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Any:
            if len(messages) == 1:
                asked.append(sampling)
            return await super().act(messages, tools, episode_id=episode_id, sampling=sampling)

    async with Rollouts(ledger, Noting(), max_concurrency=1) as rollouts:
        rollouts._pools[REF.url, REF.key] = rollouts.envs
        without = await groups_of(rollouts).take(2)
        asked.clear()
        groups = await groups_of(rollouts, greedy=True).take(2)
    for group, sampled in zip(groups, without, strict=True):
        *others, greedy = group.trajectories
        assert played([TrajectoryGroup(group.group_id, others)]) == played([sampled])
        assert [t.labels.mode for t in group.trajectories] == ["sampled", "sampled", "greedy"]
        assert (greedy.group_id, greedy.episode_id) == (group.group_id, f"{group.group_id}/2")
        assert (greedy.task, greedy.seed) == (others[0].task, others[0].seed)
    temperatures = [(sampling.temperature, sampling.top_p) for sampling in asked]
    assert temperatures == [(0.7, 0.9), (0.7, 0.9), (0.0, 1.0)] * 2


async def test_one_task_that_always_faults_ends_no_run_that_takes_single_groups(ledger: Any, walker: Any) -> None:
    """As `Mixture` and `Prefetch` do; a step of which nothing is left is refused all the same."""

    class Broken(ledger):  # type: ignore[misc]
        async def start(self, task: Task) -> str:
            if task.id == "t0":
                raise EnvFault("the server of t0 is down")
            return str(await super().start(task))

    async with Rollouts(Broken, walker, max_concurrency=3, backoff_s=0.0) as rollouts:
        rollouts._pools[REF.url, REF.key] = rollouts.envs
        source = groups_of(rollouts)
        groups = [group for _ in range(5) for group in await source.take(1)]
        rollouts.check_faults(groups)
        (broken,) = [group for group in groups if group.trajectories[0].task.id == "t0"]
        assert {t.status for t in broken.trajectories} == {"fault"}
        with pytest.raises(RolloutError, match=r"2 of 2 episodes .* the server of t0 is down"):
            rollouts.check_faults([broken])
