"""An environment through four doors: here, pooled, served, on Ray. The same tasks and seeds are the same episodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.conform.episodes import episode_hash
from agentrl.distributed.local import LocalWorkers
from agentrl.distributed.ray_workers import RayWorkers
from agentrl.distributed.samplers import Samplers
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.sampling import SamplingParams
from agentrl.serving.envs.client import connect
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.training import model_setup
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import ScaleConfig
from agentrl.training.train import train
from agentrl.trajectory import EnvRef, Trajectory
from tests.learning.fixtures import one_thread
from tests.serving.conftest import CONFIG, Lamp

__all__ = ["one_thread"]
REF = EnvRef("tests.serving.conftest:Lamp", limits={"max_turns": 4})
GROUPS, EPISODES, LIMIT = 6, 3, 8


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> LocalPolicy:
    """A model that has learnt to look, and sometimes does something else."""
    run = tmp_path_factory.mktemp("taught") / "run"
    train(CONFIG, run)
    model = model_setup.load(ModelConfig(path=str(run / "model")), run / "model", 0)
    return LocalPolicy(*model, chat_format="auto", sampling=SamplingParams(temperature=1.5, max_tokens=24), slots=LIMIT)


def requests(ref: EnvRef) -> list[GroupRequest]:
    tasks = list(Lamp.tasks.split("train"))
    return [GroupRequest(tasks[n], seed=100 + n, size=EPISODES, env=ref) for n in range(GROUPS)]


def hashes(episodes: list[Trajectory]) -> list[str]:
    """Where an environment is reached is no part of its episodes."""
    assert "fault" not in {episode.status for episode in episodes}
    return [episode_hash(replace(episode, env=REF)) for episode in episodes]


async def here(policy: LocalPolicy, limit: int = 1, ref: EnvRef = REF) -> list[Trajectory]:
    """In this process, and one after the other unless the limit is higher: then instances are used again."""
    async with policy, Rollouts(ref, policy, max_concurrency=limit) as rollouts:
        groups = await rollouts.run(requests(ref))
        assert (rollouts.envs.num_open > 1) == (limit > 1)
        return [episode for group in groups for episode in group.trajectories]


async def elsewhere(policy: LocalPolicy, kind: Callable[..., Any], **options: Any) -> list[Trajectory]:
    """In two sampling processes, each with environments of its own."""
    scale = ScaleConfig(samplers=2)
    workers = kind(policy, "auto", [REF], LIMIT, scale, **options)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(policy)
        own = Rollouts(REF, policy, max_concurrency=LIMIT)
        samplers = await stack.enter_async_context(Samplers(own, workers, 2, restarts=0, version=policy.version))
        groups = await samplers.run(requests(REF))
        return [episode for group in groups for episode in group.trajectories]


async def served(policy: LocalPolicy) -> list[Trajectory]:
    with EnvServer(REF, ServeOptions(port=0)) as server:
        env = connect(server.url, server.token)
        ref = env.ref
        await env.aclose()
        return await here(policy, LIMIT, ref)


@pytest.fixture
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray")
    yield module
    module.shutdown()


DOORS: dict[str, Callable[[LocalPolicy], Awaitable[list[Trajectory]]]] = {
    "pooled": lambda policy: here(policy, LIMIT),
    "processes": lambda policy: elsewhere(policy, LocalWorkers),
    "served": served,
}


@pytest.fixture(scope="module")
def expected(policy: LocalPolicy) -> list[str]:
    episodes = asyncio.run(here(policy))
    assert len(episodes) == GROUPS * EPISODES
    assert len({len(episode.turns) for episode in episodes}) > 1, "some look more than once"
    found = hashes(episodes)
    assert len(set(found)) > GROUPS
    return found


@pytest.mark.parametrize("door", DOORS)
async def test_episodes_are_the_same_through_every_door(door: str, policy: LocalPolicy, expected: list[str]) -> None:
    assert hashes(await DOORS[door](policy)) == expected


@pytest.mark.usefixtures("ray")
async def test_episodes_are_the_same_on_ray(policy: LocalPolicy, expected: list[str], tmp_path: Path) -> None:
    assert hashes(await elsewhere(policy, RayWorkers)) == expected
