"""Forked episodes: which turns are chosen, that a continuation begins as its episode did, and what faults do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from agentrl.env.tool_env import call
from agentrl.errors import EnvFault
from agentrl.messages import Action
from agentrl.rollout.replay import areplay
from agentrl.rollout.requests import Fork, GroupRequest, sampling_seed
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.forked import Forked, Forks, request_of
from agentrl.rollout.sources.tasks import TaskGroups
from agentrl.tool_schema import tool
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn
from tests.rollout.conftest import Ledger, Walker

TASKS = [Task(f"t{number}", data={"low": number}) for number in range(4)]
REF = EnvRef("test/Ledger-v0")


def forked(rollouts: Rollouts, forks: Forks) -> Forked:
    source = TaskGroups(rollouts, REF, TASKS, group_size=3, seed=1, labels=Labels("rl"))
    return Forked(source, rollouts, forks)


async def played(env: Any, forks: Forks, n: int = 4) -> list[TrajectoryGroup]:
    async with Rollouts(env, Walker(), env_id=REF.id, backoff_s=0.0) as rollouts:
        return await forked(rollouts, forks).take(n)


def continued(groups: list[TrajectoryGroup]) -> list[tuple[Trajectory, Trajectory]]:
    """Each continuation with its episode."""
    every = {t.episode_id: t for g in groups for t in g.trajectories}
    return [(t, every[t.fork[0]]) for t in every.values() if t.fork is not None]


def same_beginning(one: Trajectory, other: Trajectory, turns: int) -> bool:
    return [(t.observation, t.action, t.reward, t.next_observation) for t in one.turns[:turns]] == [
        (t.observation, t.action, t.reward, t.next_observation) for t in other.turns[:turns]
    ]


async def test_a_continuation_begins_as_its_episode_did_and_then_goes_its_own_way(ledger: Any) -> None:
    groups = await played(ledger, Forks(3, "every"))
    pairs = continued(groups)
    assert len(pairs) > 20
    for own, parent in pairs:
        _, turn = own.fork or ("", 0)
        assert same_beginning(own, parent, turn)
        assert own.turns[turn].observation == parent.turns[turn].observation
        assert own.num_sampled_tokens == 5 * (len(own.turns) - turn)
        assert own.labels == parent.labels
        assert (await areplay(own, ledger())).outcome == "same"
    for _, of_one in itertools.groupby(pairs, key=lambda pair: pair[0].fork):
        own = [pair[0].turns[pair[0].first_own_turn].action.token_ids for pair in of_one]
        assert len(set(own)) == len(own) == 3


async def test_continuations_are_a_function_of_the_seed(ledger: Any) -> None:
    def actions(groups: list[TrajectoryGroup]) -> list[Any]:
        return [(t.episode_id, t.fork, [turn.action for turn in t.turns]) for g in groups for t in g.trajectories]

    first, again = await played(ledger, Forks()), await played(ledger, Forks())
    assert actions(first) == actions(again)


async def test_the_order_and_place_are_those_of_the_source(ledger: Any) -> None:
    async with Rollouts(ledger, Walker(), env_id=REF.id) as rollouts:
        source = forked(rollouts, Forks(1))
        await source.take(2)
        resumed = forked(rollouts, Forks(1))
        resumed.load_state_dict(source.state_dict())
        ids = [g.group_id for s in (source, resumed) for g in await s.take(2)]
    assert ids == ["2", "3", "2", "3"]


class Changing(Ledger):
    """Answers otherwise each time: no function of task, seed and actions."""

    told = itertools.count()

    @tool
    def total(self) -> int:
        """The sum so far, and then some."""
        return next(self.told)


class Calling(Walker):
    """Asks for the total three times, then answers."""

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        said = sum(m.role == "assistant" for m in messages)
        return Action("0") if said > 2 else call("total")


async def test_an_environment_that_does_not_repeat_itself_is_a_fault_that_says_so() -> None:
    async with Rollouts(Changing, Calling(), backoff_s=0.0, max_fault_fraction=1.0) as rollouts:
        ((first,),) = [g.trajectories for g in await rollouts.run([GroupRequest(TASKS[0], 0)])]
        assert first.status == "terminated"
        (group,) = await rollouts.run([request_of(first, 2, 1)])
    (fault,) = group.trajectories
    assert fault.ending.kind == "fault"
    assert fault.ending.who == "author"
    assert "cannot be reached again: the same actions were answered differently after turn 0" in fault.ending.detail


class Flaky(Ledger):
    """Fails as often as it is told to."""

    left = 0

    @tool
    def total(self) -> int:
        """The sum so far."""
        if Flaky.left:
            Flaky.left -= 1
            raise EnvFault("the disk is full")
        return sum(self.entries)


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_fault_on_the_way_back_is_tried_again_and_is_never_the_models(failures: int) -> None:
    async with Rollouts(Flaky, Calling(), backoff_s=0.0, max_fault_fraction=1.0) as rollouts:
        ((first,),) = [g.trajectories for g in await rollouts.run([GroupRequest(TASKS[0], 0)])]
        Flaky.left = failures
        (group,) = await rollouts.run([request_of(first, 2, 1)])
    (own,) = group.trajectories
    assert own.fork == (first.episode_id, 2)
    assert own.labels.attempt == min(failures, 2)
    assert own.ending.kind == ("fault" if failures == 3 else "answer")
    assert same_beginning(own, first, 2) == (failures < 3)


def episode(logprobs: list[float | None], **changes: Any) -> Trajectory:
    turns = [Turn((), Action("x", token_ids=(1,), logprobs=None if p is None else (p, p))) for p in logprobs]
    return Trajectory(EnvRef("e"), Task("t"), 3, turns, episode_id="5/1", **changes)


def test_turns_are_chosen_by_surprise_at_random_or_all() -> None:
    long = episode([-9.0, -0.1, -2.0, None, -0.3, -1.0])
    assert Forks(turns="every").chosen(long) == [1, 2, 3, 4, 5]
    assert Forks(turns="entropy", most=2).chosen(long) == [2, 5]
    drawn = {tuple(Forks(turns="random", most=2).chosen(replace(long, episode_id=str(n)))) for n in range(200)}
    assert drawn == set(itertools.combinations(range(1, 6), 2))
    assert Forks(turns="random", most=2).chosen(long) == Forks(turns="random", most=2).chosen(long)
    assert Forks(turns="random", most=9).chosen(long) == [1, 2, 3, 4, 5]


def test_what_has_no_second_turn_or_does_not_train_is_not_forked() -> None:
    assert Forks(turns="every").chosen(episode([-1.0])) == []
    assert Forks(turns="every").chosen(episode([-1.0, -1.0], labels=Labels(mode="greedy"))) == []
    assert Forks(turns="every").chosen(episode([-1.0, -1.0], fork=("5/0", 1))) == []


def test_each_fork_and_index_has_a_stream_of_its_own() -> None:
    own = episode([-1.0] * 4)
    requests = [GroupRequest(own.task, 3), *(request_of(own, turn, 2) for turn in (1, 2, 3))]
    seeds = [sampling_seed(request, index) for request in requests for index in (0, 1)]
    assert len(set(seeds)) == 8


@pytest.mark.parametrize("turn", [0, 4])
def test_a_turn_that_cannot_be_forked_is_refused(turn: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 3"):
        Fork(episode([-1.0] * 4), turn)


def test_an_episode_is_continued_with_its_own_task_and_seed() -> None:
    own = episode([-1.0] * 4)
    with pytest.raises(ValueError, match="own task and seed"):
        GroupRequest(own.task, 4, fork=Fork(own, 1))
