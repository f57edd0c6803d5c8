"""Gymnasium's wrappers around an environment: rolled out, measured, registered, forked and cancelled."""

from __future__ import annotations

import asyncio
import threading

import gymnasium
import pytest
from gymnasium.wrappers import OrderEnforcing, RecordEpisodeStatistics, TimeLimit, TransformAction, TransformReward

from agentrl.bench.runner import run_bench
from agentrl.env.check import check_env
from agentrl.env.driving.wrapped import as_env
from agentrl.env.registry import make, register, spec
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvNotFound
from agentrl.messages import Action
from agentrl.policy.scripted import OraclePolicy, ScriptedPolicy
from agentrl.rollout.replay import replay
from agentrl.rollout.runner import arollout, rollout
from agentrl.tool_schema import tool


class Count(ToolEnv):
    """Count to three."""

    tasks = Tasks.of(train=[{"i": 0}, {"i": 1}], eval=[{"i": 2}, {"i": 3}])

    def start(self, task):
        self.n = 0
        return "go"

    @tool
    def up(self) -> int:
        """One more."""
        self.n += 1
        return self.n

    def score(self, answer):
        return float(self.n == 3)

    def oracle(self, messages):
        return call("up") if self.n < 3 else "three"


class Waits(Count):
    """The same, over tools that wait."""

    entered = asyncio.Event()

    @tool
    async def up(self) -> int:
        """One more, later."""
        self.thread = threading.current_thread().name
        await asyncio.sleep(0)
        self.n += 1
        return self.n

    @tool
    async def hang(self) -> None:
        """Waits for ever."""
        self.entered.set()
        await asyncio.Event().wait()


def halved(inner):
    return RecordEpisodeStatistics(OrderEnforcing(TransformReward(inner, lambda reward: reward / 2)))


@pytest.mark.parametrize("inner", [Count, Waits])
def test_wrapped_environments_are_rolled_out_and_replayed(inner):
    groups = rollout(lambda: halved(inner()), OraclePolicy(), group_size=2)
    played = [trajectory for group in groups for trajectory in group.trajectories]
    assert [(t.reward, t.status, len(t.turns), t.ending.kind) for t in played] == [(0.5, "terminated", 4, "answer")] * 4
    assert [one["function"]["name"] for one in played[0].tools][-1] == "up"
    (group, *_) = rollout(lambda: TimeLimit(inner(), 3), OraclePolicy())
    assert replay(group.trajectories[0], as_env(TimeLimit(inner(), 3))).outcome == "same"


@pytest.mark.parametrize("inner", [Count, Waits])
def test_a_time_limit_truncates(inner):
    (group, *_) = rollout(lambda: TimeLimit(inner(), 2), OraclePolicy())
    assert (group.trajectories[0].status, group.trajectories[0].ending.kind) == ("truncated", "limit")
    assert len(group.trajectories[0].turns) == 2


async def test_what_waits_runs_in_the_loop_of_the_rollout_and_the_wrapper_elsewhere():
    threads = []

    def noted(action):
        threads.append(threading.current_thread())
        return action

    env = as_env(TransformAction(Waits(), noted, None))
    await env.areset(seed=0)
    await env.astep(call("up"))
    assert env.thread == threading.current_thread().name
    assert threads[0] is not threading.current_thread()
    await env.aclose()


async def test_cancelling_reaches_the_tool_and_ends_the_thread():
    Waits.entered = asyncio.Event()
    env = as_env(halved(Waits()))
    await env.areset(seed=0)
    before = threading.active_count()
    step = asyncio.create_task(env.astep(call("hang")))
    await Waits.entered.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    for thread in threading.enumerate():
        if thread.name.startswith("tool-"):
            thread.join(timeout=10)
    assert threading.active_count() < before + 1


async def test_an_error_of_a_wrapper_is_a_fault_of_the_author():
    def breaks(reward):
        raise KeyError("r")

    (group,) = await arollout(
        lambda: TransformReward(Waits(), breaks), OraclePolicy(), ["train-0"], max_attempts=1, max_fault_fraction=1.0
    )
    assert group.trajectories[0].ending.who == "author"
    assert "KeyError: 'r'" in group.trajectories[0].error


class Silent(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return "text"


async def test_what_is_no_environment_or_no_longer_one_is_named():
    env = as_env(Silent(Count()))
    with pytest.raises(TypeError, match="must be a tuple of Messages"):
        await env.areset(seed=0)
    with pytest.raises(TypeError, match=r"expected an agentrl.Env, or Gymnasium's wrappers around one"):
        await arollout(lambda: gymnasium.make("CartPole-v1"), ScriptedPolicy(["a"]))


@pytest.mark.parametrize("inner", [Count, Waits])
async def test_a_fork_takes_its_wrappers_along(inner):
    env = as_env(TimeLimit(inner(), 3))
    await env.areset(seed=0)
    await env.astep(call("up"))
    twin = await env.afork()
    assert (await env.astep(call("up")))[3] is False
    assert [(await twin.astep(call("up")))[3] for _ in range(2)] == [False, True]
    assert (env.n, twin.n) == (2, 3)
    await twin.aset_state(await env.aget_state())
    assert (await twin.astep(call("up")))[3] is True
    assert twin.n == 3


@register("test/Halved-v0", max_turns=7)
def halved_count(**kwargs):
    """Half the reward."""
    return halved(Count(**kwargs))


def test_a_function_is_registered_and_named_like_a_class(tmp_path):
    env = make("test/Halved-v0")
    assert (env.limits.max_turns, env.ref.id, env.unwrapped.spec.id) == (7, "test/Halved-v0", "test/Halved-v0")
    found = spec("test/Halved-v0")
    assert (found.env_class, found.description) == (Count, "Half the reward.")
    file = tmp_path / "own.py"
    file.write_text(
        "import gymnasium\nfrom agentrl import make\n"
        "def wrapped(limit=2):\n    return gymnasium.wrappers.TimeLimit(make('agentrl/Guess-v0'), limit)\nnothing = 1\n"
    )
    (group, *_) = rollout(f"{file}:wrapped", ScriptedPolicy(["1"]), ["train-0"])
    assert (len(group.trajectories[0].turns), group.trajectories[0].env.id) == (2, f"{file}:wrapped")
    assert " by " in group.trajectories[0].env.version
    with pytest.raises(EnvNotFound, match="nor a function that makes one"):
        make(f"{file}:nothing")


@register("test/Limited-v0")
def limited_count():
    """The same reward, within four turns."""
    return TransformReward(TimeLimit(Count(), 4), lambda reward: reward * 1.0)


def test_check_accepts_a_wrapped_environment():
    report = check_env("test/Limited-v0", processes=False)
    assert [finding for finding in report.findings if finding.severity == "error"] == []


def test_wrapped_environments_are_benchmarked(tmp_path):
    result = run_bench(lambda: halved(Waits()), "oracle", split="eval", num_tasks=2, out=tmp_path / "run")
    assert result.score.reward.mean == 0.5
    again = run_bench("test/Halved-v0", "oracle", split="eval", num_tasks=2, out=tmp_path / "again")
    assert again.score.reward.mean == 0.5


async def test_a_model_that_answers_at_once():
    groups = await arollout(lambda: halved(Waits()), ScriptedPolicy([Action("done")]), "eval")
    assert [group.trajectories[0].reward for group in groups] == [0.0, 0.0]
