"""The environments that run code, on the docker backend: oracle, silence and forks as on bubblewrap."""

from __future__ import annotations

import pytest

from agentrl.env.registry import make
from agentrl.env.tool_env import call
from agentrl.policy.scripted import NullPolicy, OraclePolicy
from agentrl.rollout.episode import run_episode
from agentrl.sandbox.pool import clear_pools

pytestmark = pytest.mark.docker
IDS = ("FunctionSynthesis", "Terminal", "BugFix", "DataAnalysis")


@pytest.fixture(autouse=True)
async def no_warm_containers():
    """Other tests count this process's containers."""
    yield
    await clear_pools()


@pytest.mark.parametrize("name", IDS)
async def test_oracle_and_silence(name):
    env = make(f"agentrl/{name}-v0", backend="docker")
    rewards = []
    for policy in (OraclePolicy(), NullPolicy()):
        for task in env.tasks.split("eval")[:2]:
            trajectory = await run_episode(env, policy, task, 0)
            assert trajectory.error is None
            rewards.append(trajectory.reward)
    await env.aclose()
    assert rewards == [1.0, 1.0, 0.0, 0.0]


async def test_a_fork_has_the_files():
    env = make("agentrl/Terminal-v0", backend="docker")
    await env.areset(options={"task": "eval-0"})
    await env.astep(call("shell", command="echo one > a.txt"))
    twin = await env.afork()
    await env.astep(call("shell", command="echo two > a.txt"))
    told = [(await each.astep(call("shell", command="cat a.txt")))[0][0].content.strip() for each in (env, twin)]
    await env.aclose()
    await twin.aclose()
    assert told == ["two", "one"]
