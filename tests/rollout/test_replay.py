"""Determinism: transcripts byte for byte, alone and in company, recorded and replayed, forked at any turn."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from msgspec import structs, to_builtins

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, ReplayError, StoreError
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.json_lines import canonical
from agentrl.rollout.records import trajectory_record
from agentrl.rollout.replay import areplay, replay, replay_store
from agentrl.rollout.requests import GroupRequest, sampling_seed
from agentrl.rollout.runner import Rollouts, arollout
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Ending, EnvRef, Labels, Trajectory

ID = "test/Ledger-v0"


def transcript(trajectory: Trajectory) -> bytes:
    """Everything but names and clocks."""
    record = to_builtins(trajectory_record(trajectory))
    for turn in record["turns"]:
        del turn["policy_s"], turn["env_s"]
    return canonical({k: v for k, v in record.items() if k not in ("group_id", "episode_id", "attempt")})


async def record(make_env, policy, count: int, path, **options) -> list[Trajectory]:
    """`count` episodes over train tasks in groups of 4, stored."""
    tasks = make_env.tasks.split("train")
    requests = [GroupRequest(tasks[n % 50], n, 4, labels=Labels("rl", n)) for n in range(count // 4)]
    with TrajectoryStore(path) as store:
        async with Rollouts(make_env, policy, env_id=ID, store=store, **options) as rollouts:
            groups = await rollouts.run(requests)
    return [trajectory for group in groups for trajectory in group.trajectories]


@pytest.mark.parametrize("kind", ["ledger", "slow_ledger"])
async def test_an_episode_is_the_same_alone_and_beside_63_others(request, kind, walker, tmp_path):
    make_env = request.getfixturevalue(kind)
    crowd = await record(make_env, walker, 64, tmp_path / "t.jsonl", max_concurrency=64)
    assert len(crowd) == 64
    assert len({transcript(t) for t in crowd}) > 40, "the episodes must differ for this to mean anything"
    for index in range(0, 64, 7):
        crowded = crowd[index]
        sampling = SamplingParams(seed=walker_seed(crowded))
        alone = await run_episode(
            make_env(), walker, crowded.task, crowded.seed, ref=EnvRef(ID), sampling=sampling, labels=crowded.labels
        )
        assert transcript(alone) == transcript(crowded)


def walker_seed(trajectory: Trajectory) -> int:
    request = GroupRequest(trajectory.task, trajectory.seed)
    return sampling_seed(request, int(trajectory.episode_id.rsplit("/", 1)[1]))


async def test_concurrency_changes_nothing(slow_ledger, walker, tmp_path):
    runs = [await record(slow_ledger, walker, 40, tmp_path / str(bound), max_concurrency=bound) for bound in (1, 7, 64)]
    assert [transcript(t) for t in runs[0]] == [transcript(t) for t in runs[1]] == [transcript(t) for t in runs[2]]


async def test_a_thousand_recorded_episodes_replay(ledger, walker, tmp_path):
    path = tmp_path / "trajectories.jsonl"
    recorded = await record(ledger, walker, 1000, path)
    statuses = {t.status for t in recorded}
    assert statuses == {"terminated", "truncated"}
    assert sum(len(t.turns) for t in recorded) > 2500
    seen, made = [], []

    def make_env(ref):
        made.append(ref.id)
        return ledger()

    result = replay_store(path, make_env, on_report=seen.append)
    assert result.ok
    assert str(result) == "1000 same, 0 differs, 0 skipped"
    assert len(seen) == 1000
    assert made == [ID]


def test_an_environment_that_waits_replays_too(slow_ledger, walker, tmp_path):
    # Not an async test: the synchronous face of an environment that waits needs a thread without a loop.
    recorded = asyncio.run(record(slow_ledger, walker, 20, tmp_path / "t.jsonl"))
    env = slow_ledger()
    assert {replay(t, env).outcome for t in recorded} == {"same"}
    env.close()


async def test_inside_a_loop_an_environment_that_waits_is_replayed_by_awaiting(slow_ledger, walker, tmp_path):
    trajectory = (await record(slow_ledger, walker, 4, tmp_path / "t.jsonl"))[0]
    with pytest.raises(RuntimeError, match="running"):
        replay(trajectory, slow_ledger())
    assert (await areplay(trajectory, slow_ledger())).outcome == "same"


def altered(ledger, name):
    """The environment with one line changed."""

    class Later(ledger):
        async def start(self, task):
            text = await super().start(task)
            return text.replace("Mood", "mood") if name == "observation at reset" else text

        async def astep(self, action):
            observation, reward, terminated, truncated, info = await super().astep(action)
            fourth = len(self.entries) == 4
            if fourth and name == "observation":
                observation = tuple(structs.replace(m, content=m.content + " ") for m in observation)
            if fourth and name == "reward":
                reward += 1e-12
            if fourth and name == "reward_components":
                info = {**info, "reward_components": {**info.get("reward_components", {}), "bonus": 0.0}}
            if fourth and name == "status":
                terminated = True
            if fourth and name == "error":
                raise EnvFault("gone")
            if terminated and name == "info":
                info["success"] = not info["success"]
            return observation, reward, terminated, truncated, info

        def state_key(self):
            return super().state_key() + ("!" if name == "state_key" and len(self.entries) == 4 else "")

    return Later


PARTS = ["observation", "reward", "reward_components", "status", "error", "state_key"]


@pytest.mark.parametrize("part", PARTS)
async def test_a_change_of_one_line_is_named_at_the_first_step_that_differs(ledger, walker, tmp_path, part):
    recorded = await record(ledger, walker, 200, tmp_path / "t.jsonl")
    changed = altered(ledger, part)()
    differing = 0
    for trajectory in recorded:
        report = await areplay(trajectory, changed)
        last = len(trajectory.turns) - 1
        first = next((i for i in range(last + 1) if entries_after(trajectory, i) == 4), None)
        if first == last and (part == "state_key" or (part == "status" and trajectory.status == "terminated")):
            first = None
        elif first is not None and part == "state_key":
            first += 1
        assert report.outcome == ("same" if first is None else "differs"), trajectory.episode_id
        if first is not None:
            differing += 1
            assert report.difference.turn == first
            assert report.difference.part == part
            assert report.difference.recorded != report.difference.replayed
            assert f"turn {first}: {part} differs" in str(report)
    assert differing > 20


def entries_after(trajectory: Trajectory, index: int) -> int:
    """Entries drawn up to and including an action, counted from the transcript."""
    return sum('"entry"' in m.content for turn in trajectory.turns[: index + 1] for m in turn.next_observation)


async def test_a_change_at_reset_and_one_at_the_end(ledger, walker, tmp_path):
    recorded = await record(ledger, walker, 40, tmp_path / "t.jsonl")
    report = await areplay(recorded[0], altered(ledger, "observation at reset")())
    assert (report.difference.turn, report.difference.part) == (None, "observation")
    assert "Mood" in report.difference.recorded
    assert "mood" in report.difference.replayed
    assert str(report).startswith("train-0@0/0 of test/Ledger-v0: reset: observation differs")
    ended = next(t for t in recorded if t.status == "terminated")
    report = await areplay(ended, altered(ledger, "info")())
    assert (report.difference.turn, report.difference.part) == (len(ended.turns) - 1, "info")


async def test_a_long_difference_is_shown_where_it_begins(ledger, walker, tmp_path):
    trajectory = (await record(ledger, walker, 4, tmp_path / "t.jsonl"))[0]
    text = trajectory.turns[0].observation[0].content
    trajectory.turns[0].observation = (Message("user", "long " * 1000 + text),)
    shown = str(replay(trajectory, ledger()))
    assert "recorded" in shown
    assert len(shown) < 1000


async def test_a_store_with_faults_and_differences_is_counted(ledger, walker, tmp_path):
    path = tmp_path / "t.jsonl"
    recorded = await record(ledger, walker, 8, path)
    with TrajectoryStore(path) as store:
        fault = replace(recorded[0], ending=Ending("fault", "EnvFault: gone"), episode_id="gone")
        store.append(fault)
        spoilt = replace(recorded[1], episode_id="spoilt", seed=recorded[1].seed + 1)
        store.append(spoilt)
    result = replay_store(path, lambda _: ledger())
    assert not result.ok
    assert dict(result.counts) == {"same": 8, "skipped": 1, "differs": 1}
    assert [report.episode_id for report in result.differing] == ["spoilt"]
    assert replay_store(path, lambda _: ledger(), limit=3).counts == {"same": 3}
    assert not replay_store(path, lambda _: ledger(), stage="eval").ok
    with pytest.raises(StoreError):
        replay_store(tmp_path / "none.jsonl")


def test_a_trajectory_without_turns_is_refused(ledger):
    with pytest.raises(ReplayError, match="has no turns"):
        replay(Trajectory(EnvRef(ID), ledger.tasks["train-0"], 0), ledger())


class Recorded(Policy):
    """Plays given actions."""

    def __init__(self, actions: list[Action]) -> None:
        self.actions = list(actions)

    async def act(self, messages, tools, *, episode_id, sampling=None):
        return self.actions.pop(0)


@pytest.mark.parametrize("kind", ["ledger", "slow_ledger"])
async def test_a_fork_at_any_turn_continues_identically(request, kind, walker, tmp_path):
    make_env = request.getfixturevalue(kind)
    recorded = [t for t in await record(make_env, walker, 40, tmp_path / "t.jsonl") if len(t.turns) >= 4][:5]
    assert len(recorded) == 5

    async def results(env, actions):
        return [await env.astep(action) for action in actions]

    for trajectory in recorded:
        actions = [turn.action for turn in trajectory.turns]
        for at in range(len(actions)):
            env = make_env()
            await env.areset(seed=trajectory.seed, options={"task": trajectory.task})
            await results(env, actions[:at])
            twin = env.fork()
            # The twin goes first: what it does must not reach the original.
            theirs, ours = await results(twin, actions[at:]), await results(env, actions[at:])
            wanted = [(t.next_observation, t.reward) for t in trajectory.turns[at:]]
            assert [r[:2] for r in theirs] == [r[:2] for r in ours] == wanted
            assert theirs[-1][2:] == ours[-1][2:]
            await env.aclose()
            await twin.aclose()


async def test_a_clock_in_an_observation_is_caught(walker, tmp_path):
    ticks = iter(range(10**6))

    class Clock(ToolEnv):
        tasks = Tasks.of(train=[{}] * 50)

        async def start(self, task):
            return "What time is it?"

        async def respond(self, text):
            return f"It is {next(ticks)}."

    policy = Recorded([Action("now")] * 20)
    trajectory = await run_episode(Clock(), policy, Clock.tasks["train-0"], 0, ref=EnvRef("c"))
    report = replay(trajectory, Clock())
    assert (report.difference.turn, report.difference.part) == (0, "observation")


class Shaky(ToolEnv):
    """Its server fails on 13, its author's code on 7, and both work otherwise."""

    tasks = Tasks.of(train=[{}])

    def start(self, task):
        return "Get a number."

    @tool
    def get(self, number: int) -> int:
        """Get a number.

        Args:
            number: any
        """
        if number == 13:
            raise EnvFault("GET /13 answered 500", answers=True)
        return 10 // (number - 7)

    def score(self, answer):
        return 1.0

    def oracle(self, messages):
        return "done" if messages[-1].role == "tool" else call("get", number=1)


async def test_faults_that_counted_as_the_models_doing_replay(tmp_path, monkeypatch):
    path, server = tmp_path / "t.jsonl", call("get", number=13)
    played = []
    for actions in ([server, "done"], [call("get", number=7)], [call("get", number=1), server, server, "done"]):
        with TrajectoryStore(path) as store:
            played += await arollout(
                Shaky, ScriptedPolicy(actions), [Shaky.tasks["train-0"]], env_id=ID, store=store, backoff_s=0.0
            )
    endings = [group.trajectories[0].ending.kind for group in played]
    assert endings == ["answer", "error", "answer"]
    found = await asyncio.to_thread(replay_store, path, lambda _: Shaky())
    assert found.counts["same"] == 3
    assert set(found.counts) == {"same", "skipped"}  # the attempts before
    monkeypatch.setattr(Shaky, "score", lambda self, answer: 0.5)
    found = await asyncio.to_thread(replay_store, path, lambda _: Shaky())
    assert found.counts["differs"] == 2


async def test_a_turn_that_a_filter_withheld_replays(tmp_path):
    withheld = ScriptedPolicy([call("get", number=1), Action(finish_reason="content_filter")])
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        (group,) = await arollout(Shaky, withheld, [Shaky.tasks["train-0"]], env_id=ID, store=store)
    assert group.trajectories[0].ending == Ending("error", "content_filter")
    found = await asyncio.to_thread(replay_store, path, lambda _: Shaky())
    assert found.counts == {"same": 1}


@pytest.mark.parametrize("odd", ["\ud800", math.nan, math.inf, {"a": [-math.inf, None]}, 2**70])
async def test_odd_arguments_of_a_model_replay_from_the_store(tmp_path, odd):
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        policy = ScriptedPolicy([call("get", number=odd), call(str(odd), **{str(odd): odd}), "done"])
        (group,) = await arollout(Shaky, policy, [Shaky.tasks["train-0"]], env_id=ID, store=store)
    (read,) = TrajectoryStore(path)
    played = [turn.action for turn in group.trajectories[0].turns]
    assert repr([turn.action for turn in read.turns]) == repr(played)
    found = await asyncio.to_thread(replay_store, path, lambda _: Shaky())
    assert found.counts == {"same": 1}
