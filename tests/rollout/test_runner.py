"""Concurrency: order, bounds, retries, re-use, cancellation. Nothing here depends on how long anything takes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from agentrl.env.base import Limits
from agentrl.env.registry import make
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, EnvNotFound, RolloutError, TaskError
from agentrl.messages import Action
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import NullPolicy
from agentrl.rollout.requests import GroupRequest, sampling_seed
from agentrl.rollout.runner import Rollouts, arollout, rollout
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import EnvRef, Labels, Task


class Gate(ToolEnv):
    """Each episode waits until the test opens its gate; instances know what was done to them."""

    tasks = Tasks.of(train=[{"n": n} for n in range(20)])
    limits = Limits(max_turns=5)
    made: list[Gate]
    gates: dict[str, asyncio.Event]
    waiting: list[str]
    faults: dict[str, int]

    @classmethod
    def fresh(cls) -> type[Gate]:
        world = type("World", (cls,), {"made": [], "gates": {}, "waiting": [], "faults": {}})
        return world

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.episodes, self.closed = 0, 0
        self.made.append(self)

    async def start(self, task: Task) -> str:
        assert not self.closed, "a closed instance must not be lent again"
        self.episodes += 1
        return f"task {task.id} {self.np_random.integers(10**9)}"

    @tool
    async def enter(self) -> str:
        """Wait for the gate."""
        gate = self.gates.get(self.task.id)
        if gate is not None:
            self.waiting.append(self.task.id)
            await gate.wait()
            self.waiting.remove(self.task.id)
        if self.faults.get(self.task.id, 0) > 0:
            self.faults[self.task.id] -= 1
            raise EnvFault("gate stuck")
        return "in"

    async def score(self, answer: str | None) -> float:
        return 1.0

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


class Visitor(Policy):
    """Enters, then answers."""

    sampling = SamplingParams(temperature=0.7)

    def __init__(self):
        self.alive: set[str] = set()
        self.most = 0
        self.seeds: dict[str, list[int]] = {}

    async def act(self, messages, tools, *, episode_id, sampling=None):
        self.alive.add(episode_id)
        self.most = max(self.most, len(self.alive))
        assert sampling.temperature == self.sampling.temperature
        if len(messages) == 1:
            self.seeds.setdefault(episode_id.rsplit("#", 1)[0], []).append((sampling.seed, messages[0].content))
            return call("enter")
        return Action("done")

    async def release(self, episode_id):
        self.alive.discard(episode_id)


def requests(*numbers: int, size: int = 1, seed: int = 3) -> list[GroupRequest]:
    return [GroupRequest(Gate.tasks[f"train-{n}"], seed, size) for n in numbers]


def only_this_task_runs() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


async def test_groups_share_task_and_seed_and_differ_in_sampling(walker, ledger):
    tasks = [ledger.tasks[f"train-{n}"] for n in (3, 1, 2)]
    asked = [GroupRequest(task, 10 + n, 4, labels=Labels("train")) for n, task in enumerate(tasks)]
    async with Rollouts(ledger, walker, env_id="test/Ledger-v0") as rollouts:
        groups = await rollouts.run(asked)
    assert [group.group_id for group in groups] == ["train-3@10", "train-1@11", "train-2@12"]
    for request, group in zip(asked, groups, strict=True):
        assert [t.episode_id for t in group.trajectories] == [f"{request.group_id}/{i}" for i in range(4)]
        assert all(t.task == request.task and t.seed == request.seed for t in group.trajectories)
        assert len({t.turns[0].observation for t in group.trajectories}) == 1
        assert all(t.labels.stage == "train" for t in group.trajectories)
    assert set(walker.seeds) == {sampling_seed(request, index) for request in asked for index in range(4)}
    assert len(set(walker.seeds)) == 12
    assert len(walker.released) == 12


async def test_a_straggler_holds_its_own_slot_and_no_other():
    world, visitor = Gate.fresh(), Visitor()
    world.gates["train-0"] = asyncio.Event()
    order = []
    async with Rollouts(world, visitor, env_id="t", max_concurrency=2) as rollouts:
        async for group in rollouts.stream(requests(0, 1, 2, 3)):
            order.append(group.trajectories[0].task.id)
            if len(order) == 3:
                assert world.waiting == ["train-0"]
                world.gates["train-0"].set()
    assert order == ["train-1", "train-2", "train-3", "train-0"]
    assert visitor.most == 2
    assert len(world.made) == 2
    assert sum(env.episodes for env in world.made) == 4
    assert [env.closed for env in world.made] == [1, 1]


async def test_run_keeps_the_order_of_the_requests_whatever_ends_first():
    world = Gate.fresh()
    world.gates["train-0"] = asyncio.Event()
    finished = []

    def note(trajectory):
        finished.append(trajectory.task.id)
        if len(finished) == 3:
            world.gates["train-0"].set()

    async with Rollouts(world, Visitor(), env_id="t", on_trajectory=note) as rollouts:
        groups = await rollouts.run(requests(0, 1, 2, 3))
    assert finished[-1] == "train-0"
    assert [group.trajectories[0].task.id for group in groups] == ["train-0", "train-1", "train-2", "train-3"]


@pytest.mark.parametrize("bound", [1, 3, 7])
async def test_concurrency_is_bounded_over_episodes_not_groups(bound):
    world, visitor = Gate.fresh(), Visitor()
    world.gates["train-0"] = asyncio.Event()
    async with Rollouts(world, visitor, env_id="t", max_concurrency=bound) as rollouts:
        running = asyncio.create_task(rollouts.run(requests(0, 0, size=6)))
        await until(lambda: len(world.waiting) == bound)
        await asyncio.sleep(0.005)
        assert len(world.waiting) == bound
        world.gates["train-0"].set()
        groups = await running
    assert [len(group.trajectories) for group in groups] == [6, 6]
    assert visitor.most == bound
    assert len(world.made) <= bound


async def test_requests_are_taken_as_slots_come_free():
    world, taken = Gate.fresh(), []

    def lazily():
        for request in requests(*range(10)):
            taken.append(request.task.id)
            yield request

    world.gates["train-1"] = asyncio.Event()
    async with Rollouts(world, Visitor(), env_id="t", max_concurrency=1) as rollouts:
        running = asyncio.create_task(rollouts.run(lazily()))
        await until(lambda: world.waiting == ["train-1"])
        assert taken == ["train-0", "train-1"]
        world.gates["train-1"].set()
        await running
    assert len(taken) == 10


async def test_a_fault_is_tried_again_on_the_same_seeds_in_a_fresh_instance(tmp_path):
    world, visitor, finals = Gate.fresh(), Visitor(), []
    world.faults["train-1"] = 2
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        options = {"store": store, "backoff_s": 0, "on_trajectory": finals.append}
        async with Rollouts(world, visitor, env_id="t", **options) as rollouts:
            groups = await rollouts.run(requests(0, 1, 2))
    assert [group.trajectories[0].status for group in groups] == ["terminated"] * 3
    assert [group.trajectories[0].labels.attempt for group in groups] == [0, 2, 0]
    assert [group.rewards for group in groups] == [[1.0]] * 3
    assert len(finals) == 3
    assert len(visitor.seeds["train-1@3/0"]) == 1, "a policy has no second choice"
    stored = list(TrajectoryStore(tmp_path / "t.jsonl").read(group_id="train-1@3"))
    assert len({(t.seed, t.turns[0].observation, t.turns[0].action.tool_calls[0].name) for t in stored}) == 1
    assert [(t.status, t.labels.attempt, t.labels.superseded) for t in stored] == [
        ("fault", 0, True),
        ("fault", 1, True),
        ("terminated", 2, False),
    ]
    assert all(env.closed == 1 for env in world.made)


async def test_a_fault_that_stays_is_void_and_costs_nothing_else():
    world = Gate.fresh()
    world.faults.update(dict.fromkeys(("train-0", "train-1", "train-2"), 99))
    async with Rollouts(world, Visitor(), env_id="t", backoff_s=0, max_attempts=4) as rollouts:
        groups = await rollouts.run(requests(0, 1, 2), judged=False)
    for group in groups:
        bad = group.trajectories[0]
        assert (bad.status, bad.labels.attempt, bad.success) == ("fault", 3, False)
        assert "gate stuck" in bad.error
    assert set(world.faults.values()) == {91}  # four attempts, and four controls: the tool answers no other call either


async def test_when_nothing_works_the_run_says_why_instead_of_going_on():
    world = Gate.fresh()
    world.faults.update({f"train-{n}": 10**6 for n in range(20)})
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield from requests(len(taken) % 20)

    async with Rollouts(world, Visitor(), env_id="t", backoff_s=0, max_concurrency=4) as rollouts:
        with pytest.raises(RolloutError, match=r"8 episodes in a row failed .*8x\): EnvFault: gate stuck"):
            await rollouts.run(endless())
        assert only_this_task_runs()
        with pytest.raises(RolloutError, match="1 of 1 episodes"):
            await rollouts.run(requests(0))
    async with Rollouts(world, Visitor(), env_id="t", backoff_s=0, max_fault_fraction=1) as rollouts:
        groups = await rollouts.run(requests(*range(20), *range(20)))
        assert {group.trajectories[0].status for group in groups} == {"fault"}
    assert len(taken) < 20
    assert all(env.closed == 1 for env in world.made)


@pytest.mark.parametrize("how", ["cancel the task", "leave the stream", "close the runner"])
async def test_stopping_leaves_no_task_and_no_open_environment(how):
    world, visitor = Gate.fresh(), Visitor()
    world.gates.update({f"train-{n}": asyncio.Event() for n in range(1, 20)})
    rollouts = Rollouts(world, visitor, env_id="t", max_concurrency=8)

    async def consume():
        async with aclosing(rollouts.stream(requests(*range(20)))) as stream:
            async for _ in stream:
                await until(lambda: len(world.waiting) == 8)
                if how == "leave the stream":
                    return
                await asyncio.Event().wait() if how == "cancel the task" else None

    consumer = asyncio.create_task(consume())
    await until(lambda: len(world.waiting) == 8)
    await asyncio.sleep(0)
    if how == "cancel the task":
        consumer.cancel()
    if how == "close the runner":
        await rollouts.aclose()
    if how == "leave the stream":
        await consumer
    else:
        stopped = RolloutError if how == "close the runner" else asyncio.CancelledError
        with pytest.raises(stopped):
            await consumer
    assert only_this_task_runs()
    await rollouts.aclose()
    assert rollouts.envs.num_open == 0
    assert visitor.alive == set()
    assert len(world.made) >= 8
    assert [env.closed for env in world.made] == [1] * len(world.made)


async def test_a_bug_stops_everything_and_is_raised():
    world = Gate.fresh()

    class Buggy(Visitor):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            if "train-3" in episode_id:
                raise IndexError("ours")
            return await super().act(messages, tools, episode_id=episode_id, sampling=sampling)

    world.gates["train-0"] = asyncio.Event()
    async with Rollouts(world, Buggy(), env_id="t", max_concurrency=4) as rollouts:
        with pytest.raises(IndexError, match="ours"):
            await rollouts.run(requests(*range(10)))
        assert only_this_task_runs()
    assert all(env.closed == 1 for env in world.made)


async def test_an_environment_that_cannot_be_made_is_a_fault_or_a_bug():
    world, failures = Gate.fresh(), [EnvFault("no sandbox left")]

    def make():
        if failures:
            raise failures.pop()
        return world()

    async with Rollouts(make, Visitor(), env_id="t", backoff_s=0, max_concurrency=1) as rollouts:
        (group,) = await rollouts.run(requests(0))
        assert group.trajectories[0].labels.attempt == 1
    failures.append(ImportError("no module named docker"))
    async with Rollouts(make, Visitor(), env_id="t") as rollouts:
        with pytest.raises(ImportError, match="docker"):
            await rollouts.run(requests(0))


def test_one_runner_serves_several_event_loops():
    # Not an async test: each `asyncio.run` is an event loop of its own.
    world = Gate.fresh()
    rollouts = Rollouts(world, Visitor(), env_id="t", max_concurrency=2)
    for _ in range(2):
        assert len(asyncio.run(rollouts.run(requests(0, 1, 2)))) == 3
    asyncio.run(rollouts.aclose())
    assert rollouts.envs.num_open == 0
    assert all(env.closed == 1 for env in world.made)
    assert len(world.made) == 2, "an instance does not outlive its loop"


async def test_two_streams_of_one_runner_at_once():
    world = Gate.fresh()
    async with Rollouts(world, Visitor(), env_id="t", max_concurrency=3) as rollouts:
        one, other = await asyncio.gather(rollouts.run(requests(*range(5))), rollouts.run(requests(*range(5, 10))))
    assert [g.trajectories[0].task.id for g in (*one, *other)] == [f"train-{n}" for n in range(10)]


def test_rollout_in_one_call(ledger, walker):
    groups = rollout(ledger, walker, "eval", seeds=(1, 2), group_size=3, env_id="test/Ledger-v0")
    assert len(groups) == 20
    assert {len(group.trajectories) for group in groups} == {3}
    assert [group.group_id for group in groups[:3]] == ["eval-0@1", "eval-0@2", "eval-1@1"]
    again = rollout(ledger, type(walker)(), ["eval-0", ledger.tasks["eval-1"]], seeds=(1,), group_size=3)
    assert [[t.messages() for t in group.trajectories] for group in again] == [
        [t.messages() for t in groups[place].trajectories] for place in (0, 2)
    ]
    assert again[0].trajectories[0].env == EnvRef("Ledger")


async def test_rollout_inside_a_loop_says_what_to_do_instead(ledger, walker):
    with pytest.raises(RuntimeError, match="await arollout"):
        rollout(ledger, walker)
    assert len(await arollout(ledger, walker, ["train-0"])) == 1


def test_rollout_refuses_an_environment_or_a_split_that_does_not_exist(ledger, walker):
    with pytest.raises(EnvNotFound):
        rollout("test/NoSuchEnvironment-v0", walker)
    with pytest.raises(TaskError, match="no split 'evl'"):
        rollout(ledger, walker, "evl")


def test_bad_arguments_are_refused(ledger, walker):
    task = ledger.tasks["train-0"]
    with pytest.raises(ValueError, match="size must be >= 1"):
        GroupRequest(task, 0, 0)
    with pytest.raises(ValueError, match="max_concurrency and max_attempts must be >= 1"):
        Rollouts(ledger, walker, env_id="t", max_concurrency=0)


def test_sampling_seeds_depend_on_task_seed_and_index_alone():
    a, b = Task("a"), Task("b")
    grid = [GroupRequest(task, seed) for task in (a, b) for seed in (0, 1, 2**40)]
    seeds = {sampling_seed(request, index) for request in grid for index in range(8)}
    assert len(seeds) == 48
    assert sampling_seed(GroupRequest(a, 1, 5, "x"), 2) == sampling_seed(GroupRequest(a, 1, 9, "y"), 2)


@pytest.mark.parametrize("close", ["raises", "hangs"])
async def test_an_environment_that_will_not_close_costs_no_episode(close, monkeypatch, caplog):
    monkeypatch.setattr("agentrl.rollout.env_pool._CLOSE_TIMEOUT_S", 0.01)
    world = Gate.fresh()
    world.faults["train-1"] = 1

    async def aclose(self):
        if close == "raises":
            raise OSError("socket already closed")
        await asyncio.Event().wait()

    monkeypatch.setattr(world, "aclose", aclose)

    async with Rollouts(world, Visitor(), env_id="t", backoff_s=0) as rollouts:
        groups = await rollouts.run(requests(0, 1, 2))
    assert rollouts.envs.num_open == 0
    assert only_this_task_runs()
    assert [group.rewards for group in groups] == [[1.0]] * 3
    assert "closing World failed: " + ("OSError" if close == "raises" else "TimeoutError") in caplog.text


async def test_one_runner_serves_several_environments_in_one_set_of_slots(ledger):
    """Requests carry their environment; the limit on episodes alive holds over all calls together."""
    alive, most = 0, 0

    class Counted(NullPolicy):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            nonlocal alive, most
            alive, most = alive + 1, max(most, alive + 1)
            await asyncio.sleep(0.001)
            alive -= 1
            return await super().act(messages, tools, episode_id=episode_id, sampling=sampling)

    refs = [EnvRef("agentrl/Guess-v0"), EnvRef("agentrl/Guess-v0", {}, {"max_turns": 1}), None]
    tasks = [make(refs[0]).tasks.split("train")[0]] * 2 + [ledger().tasks.split("train")[0]]
    asked = [
        [GroupRequest(task, number, 2, f"{kind}-{number}", env=ref) for number in range(4)]
        for kind, (ref, task) in enumerate(zip(refs, tasks, strict=True))
    ]
    async with Rollouts(ledger, Counted(), env_id="test/Ledger-v0", max_concurrency=3) as rollouts:
        found = await asyncio.gather(*(rollouts.run(requests) for requests in asked))
    assert most == 3
    played = [{t.env.id for group in groups for t in group.trajectories} for groups in found]
    assert played == [{"agentrl/Guess-v0"}, {"agentrl/Guess-v0"}, {"test/Ledger-v0"}]
    assert all(t.env.version for t in found[0][0].trajectories)
    assert {len(t.turns) for group in found[1] for t in group.trajectories} == {1}
