"""The doors that are chat APIs: the same actions through our endpoint are the same episode."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.conform.dialects import Parrot, carried, dialect
from agentrl.conform.doors import Job
from agentrl.conform.episodes import played
from agentrl.env import registry
from agentrl.errors import PackageMissing
from agentrl.serving.capture.playing import AgentPlayer
from agentrl.serving.capture.server import CaptureServer
from agentrl.trajectory import Trajectory
from tests.serving.capture.agents import ChatAgent

SHOP = "agentrl/Shop-v0"


@pytest.fixture
async def episodes() -> list[Trajectory]:
    return await played(registry.make(SHOP), 2)


async def test_an_agent_that_says_the_same_has_the_same_episode(episodes: list[Trajectory]) -> None:
    episode = episodes[0]
    async with CaptureServer() as server:
        player = AgentPlayer(server, ChatAgent(), max_turns=16)
        found = await player.play(registry.make(SHOP), Parrot(episode), episode.task, episode.seed)
    turns = len(episode.turns)
    assert carried(found, turns) == carried(episode, turns)
    assert all(turn.action.token_ids for turn in found.turns)
    assert carried(replace(episode, info={}), turns) != carried(episode, turns)


def test_a_door_without_its_client_says_so(tmp_path: Path) -> None:
    if importlib.util.find_spec("openai") is not None:
        pytest.skip("openai is installed")
    with pytest.raises(PackageMissing, match="openai"):
        dialect("chat completions", "chat")(Job(registry.reference(SHOP), [], tmp_path))


@pytest.mark.parametrize(("which", "package"), [("chat", "openai"), ("responses", "openai"), ("messages", "anthropic")])
async def test_the_apis_own_clients(which: str, package: str, episodes: list[Trajectory], tmp_path: Path) -> None:
    pytest.importorskip(package)
    import asyncio

    job = Job(registry.reference(SHOP), episodes[:1], tmp_path, {package: sys.executable})
    found = await asyncio.to_thread(dialect(which, which), job)
    assert found.outcome == "green", found.detail
