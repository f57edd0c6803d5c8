"""The tools of an MCP server in an environment; runs where the package `mcp` is installed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp_types")
from agentrl.adapters.mcp_tools import McpConnection, McpEnv, McpServer
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.errors import EnvFault
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.trajectory import Task

SERVER = McpServer([sys.executable, str(Path(__file__).parent / "mcp_server.py")])


class Counter(McpEnv):
    """Count to three."""

    server = SERVER
    tasks = Tasks.of(train=[{"n": 3}])

    def start(self, task: Task) -> str:
        return f"Count to {task.data['n']}."

    def score(self, answer: str | None) -> float:
        return float(answer == "3")


class Gone(Counter):
    """Its server does not exist."""

    server = McpServer(["/nowhere/no-such-server"])


async def test_an_episode_has_a_process_of_its_own() -> None:
    first, second = Counter(), Counter()
    await asyncio.gather(first.areset(seed=1), second.areset(seed=1))
    assert [tool["function"]["name"] for tool in first.tool_schemas] == ["count", "refuse", "die"]
    assert "$schema" not in first.tool_schemas[0]["function"]["parameters"]
    assert (await first.astep(call("count", by=2)))[0][0].content == "2"
    assert (await second.astep(call("count")))[0][0].content == "1"
    assert (await first.astep(call("refuse")))[0][0].content == "Error: not that"
    await first.areset(seed=1)
    assert (await first.astep(call("count")))[0][0].content == "1"
    assert (await first.astep("3"))[1] == 1.0
    await asyncio.gather(first.aclose(), second.aclose())


async def test_a_server_that_dies_is_no_doing_of_the_model() -> None:
    env = Counter()
    episode = await run_episode(env, ScriptedPolicy([call("die"), "3"]), env.tasks["train-0"], 1)
    await env.aclose()
    assert (episode.ending.kind, episode.ending.who) == ("fault", "server")


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_call_that_ends_its_server_again_is_the_models_if_the_server_comes_back(
    comes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not comes_back:

        async def not_there(self: McpConnection) -> bool:
            return False

        monkeypatch.setattr(McpConnection, "_answers", not_there)
    policy = ScriptedPolicy([call("die"), "3"])
    async with Rollouts(Counter, policy, backoff_s=0, max_attempts=2, max_fault_fraction=1.0) as rollouts:
        (group,) = await rollouts.run([GroupRequest(Counter.tasks["train-0"], 1)])
    episode = group.trajectories[0]
    if comes_back:
        assert episode.turns[0].next_observation[0].content.startswith("Error: the MCP server failed at 'die'")
        assert episode.reward == 1.0 or episode.ending.kind == "answer"
    else:
        assert (episode.ending.kind, episode.ending.who) == ("fault", "server")


async def test_a_server_that_does_not_start_is_named() -> None:
    env = Gone()
    with pytest.raises(EnvFault, match="no-such-server"):
        await env.areset(seed=1)
    await env.aclose()


@pytest.mark.parametrize("given", [{}, {"command": ["x"], "url": "http://x"}, {"command": "x y"}])
def test_a_server_is_a_command_or_a_url(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a command"):
        McpServer(**given)
