"""verifiers both ways: an environment of ours that it plays, and one of its own that we play. Where it is installed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers.v1")

import httpx

from agentrl.adapters.verifiers.ours import AgentRLConfig, AgentRLTaskset
from agentrl.adapters.verifiers.relay import Relay, Rewritten
from agentrl.adapters.verifiers.theirs import VerifiersEnv
from agentrl.errors import ConfigError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode

ROOT = Path(__file__).parents[2]
USER = {"role": "user", "content": "Hello"}


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """verifiers finds our loop and the taskset of the tests by their names, as it would where they are installed."""
    folders = [str(ROOT / "plugins"), str(ROOT / "tests" / "adapters")]
    monkeypatch.setenv("PYTHONPATH", ":".join(folders))
    monkeypatch.setattr(sys, "path", [*folders, *sys.path])


def counting(messages: Sequence[Message], tools: Any) -> Action | str:
    if messages[-1].role == "tool":
        return messages[-1].content
    number = int(messages[-1].content.split()[2])
    return Action(tool_calls=(ToolCall("add", {"a": number, "b": 1}),))


@pytest.mark.slow
async def test_a_taskset_with_tools_is_an_environment(plugins: None) -> None:
    env = VerifiersEnv("verifiers_counter")
    task = env.tasks.split("eval")[0]
    assert [len(env.tasks.split(split)) for split in env.tasks.splits] == [8, 2]
    played = await run_episode(env, ScriptedPolicy(counting), task, 0)
    assert [message.content for message in played.messages()] == ["What is 4 + 1?", "", "5", "5"]
    assert played.reward == 1.5
    assert played.reward_components == {"exact": 1.0, "used_tool": 0.5}
    assert [tool["function"]["name"] for tool in played.tools] == ["add"]
    assert (await run_episode(env, ScriptedPolicy(["no idea"]), task, 0)).reward == 0.0
    await env.aclose()


def test_a_taskset_must_be_named() -> None:
    with pytest.raises(ConfigError, match="the id of a taskset"):
        VerifiersEnv()


async def test_the_oracle_solves_a_row_and_nothing_does_not() -> None:
    rows = list(AgentRLTaskset(AgentRLConfig(id="agentrl_verifiers", env="agentrl/Shop-v0", split="eval")).take(1))
    assert rows[0].key == "agentrl/Shop-v0/eval/eval-0"
    assert await rows[0].validate(None) is True
    untouched = type("Trace", (), {"info": {}})()
    assert await rows[0].reward(untouched) == 0.0


def test_a_taskset_without_an_environment_says_so() -> None:
    with pytest.raises(ValueError, match="which environment"):
        list(AgentRLTaskset(AgentRLConfig(id="agentrl_verifiers")))


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with Relay() as relay:
        yield relay


async def test_the_relay_hands_over_what_is_new(relay: Relay) -> None:
    import asyncio

    async with httpx.AsyncClient(timeout=20) as client:
        url = f"{relay.url}/chat/completions"
        first = asyncio.create_task(client.post(url, json={"messages": [USER], "tools": [{"type": "function"}]}))
        assert await relay.heard() == (Message("user", "Hello"),)
        assert relay.tools == ({"type": "function"},)
        relay.say(Action("Hi"))
        said = (await first).json()["choices"][0]["message"]
        second = asyncio.create_task(client.post(url, json={"messages": [USER, said, USER]}))
        assert await relay.heard() == (Message("user", "Hello"),)
        relay.say(Action("Bye"))
        await second
        third = asyncio.create_task(client.post(url, json={"messages": [{"role": "user", "content": "Other"}]}))
        with pytest.raises(Rewritten, match="changes the conversation"):
            await relay.heard()
        relay.say(Action(""))
        await third
        assert (await client.post(url, json={"messages": [USER], "stream": True})).status_code == 400
