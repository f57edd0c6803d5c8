"""Updates of weights that go wrong at one server: turns go on at the others, and none has unknown weights."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, ModelError, PolicyFault, StoreError
from agentrl.policy.servers import pool, replica
from agentrl.policy.servers.sampler import ServerSampler
from tests.policy.servers.conftest import Connect
from tests.policy.servers.fakes import FakeServer, FakeSglang, FakeVllm
from tests.policy.servers.test_sampler import ASKED, shake


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PAUSE_S", 0.001)
    monkeypatch.setattr(replica, "_FIRST_PAUSE_S", 0.005)


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that failed is not asked again during a test."""
    monkeypatch.setattr(replica, "_FIRST_PAUSE_S", 600.0)
    monkeypatch.setattr(replica, "_LONGEST_PAUSE_S", 600.0)


async def turns(sampler: ServerSampler, count: int) -> list[Any]:
    """Turns of episodes that begin at the same time; the error of one that failed."""
    asked = (sampler.act(ASKED, (), episode_id=f"{sampler.version}-{n}") for n in range(count))
    return await asyncio.gather(*asked, return_exceptions=True)


def loads(server: FakeServer) -> int:
    """How often a server was asked to pause for new weights."""
    return sum("pause" in path for path in server.seen.paths)


@pytest.mark.usefixtures("long_pause")
async def test_a_server_that_fails_to_load_leaves_its_episodes_to_another(tiny_folder: Path, connect: Connect) -> None:
    bad, good = FakeVllm(tiny_folder), FakeVllm(tiny_folder)
    sampler = connect(wait_s=60.0, bad=bad, good=good)
    await turns(sampler, 4)
    shake(sampler.model)
    sampler.weights_changed()
    bad.faults.load_fails = 1000
    assert [turn.versions[0] for turn in await turns(sampler, 8)] == [1] * 8
    assert (loads(bad), loads(good)) == (2, 2)  # once for all turns that waited


@pytest.mark.usefixtures("long_pause")
async def test_a_server_that_hangs_in_a_pause_is_left_alone(tiny_folder: Path, connect: Connect) -> None:
    bad, good = FakeVllm(tiny_folder), FakeVllm(tiny_folder)
    sampler = connect(wait_s=60.0, bad=bad, good=good)
    await turns(sampler, 2)
    sampler.weights_changed()
    bad.faults.pause_lost = True  # asked, and not answered in time
    assert [turn.versions[0] for turn in await turns(sampler, 6)] == [1] * 6
    assert loads(bad) == 2
    assert not bad.paused


async def test_a_server_alone_that_never_loads_is_an_infrastructure_fault(server: FakeServer, connect: Connect) -> None:
    server.faults.load_fails = 1000
    sampler = connect(here=server)
    with pytest.raises(PolicyFault, match=r"http://here/\S+ answered 500"):
        await sampler.act(ASKED, (), episode_id="a")
    assert not server.paused


async def test_one_server_of_two_that_keeps_old_weights_samples_nothing(tiny_folder: Path, connect: Connect) -> None:
    bad, good = FakeVllm(tiny_folder), FakeVllm(tiny_folder)
    sampler = connect(wait_s=60.0, bad=bad, good=good)
    await turns(sampler, 4)
    sampled = len(bad.seen.turns)
    shake(sampler.model)
    sampler.weights_changed()
    bad.faults.ignores_update = True
    done = await turns(sampler, 6)
    refused = [turn for turn in done if isinstance(turn, ModelError)]
    assert refused
    assert all("the server http://bad does not compute with the weights" in str(error) for error in refused)
    assert all(turn.versions[0] == 1 for turn in done if turn not in refused)
    assert all(turn.get("prompt_logprobs") == 0 for turn in bad.seen.turns[sampled:])  # probes alone


async def test_a_cache_that_was_kept_is_emptied_before_a_turn(tiny_folder: Path, connect: Connect) -> None:
    """vLLM answers 200 where it keeps what it computed with the old weights."""
    server = FakeVllm(tiny_folder)
    server.faults.cache_kept = 1
    sampler = connect(here=server)
    assert (await sampler.act(ASKED, (), episode_id="a")).token_ids
    assert server.seen.paths.count("/reset_prefix_cache") == 2
    server.faults.cache_kept = 1000
    sampler.weights_changed()
    with pytest.raises(PolicyFault, match="kept what it had computed with other weights"):
        await sampler.act(ASKED, (), episode_id="b")


async def test_a_server_that_a_killed_trainer_left_paused_goes_on(server: FakeServer, connect: Connect) -> None:
    server.paused = True
    assert (await connect(here=server).act(ASKED, (), episode_id="a")).token_ids
    assert not server.paused


async def test_a_folder_that_is_gone_is_not_given_to_a_server(server: FakeServer, connect: Connect) -> None:
    """vLLM ends when it is asked to load one."""
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    server.start()
    shutil.rmtree(sampler.servers.weights)
    with pytest.raises(StoreError, match=r"v000000-\w+ is gone, with weights that http://here needs"):
        await sampler.act(ASKED, (), episode_id="b")


async def test_a_folder_stays_while_a_slow_server_reads_it(tiny_folder: Path, connect: Connect) -> None:
    server = FakeVllm(tiny_folder)
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    sampler.weights_changed()
    server.faults.slow = asyncio.Event()
    under_way = [asyncio.ensure_future(sampler.act(ASKED, (), episode_id="b"))]
    while len(server.seen.folders) < 2:
        await asyncio.sleep(0)
    for number in range(3):
        under_way.append(asyncio.ensure_future(sampler.act(ASKED, (), episode_id=f"later {number}")))
        await asyncio.sleep(0)
        sampler.weights_changed()
    slow = Path(server.seen.folders[-1])
    assert slow.is_dir()
    server.faults.slow.set()
    assert [turn.versions[0] for turn in await asyncio.gather(*under_way)] == [4] * 4
    await sampler.act(ASKED, (), episode_id="b")
    sampler.weights_changed()  # old folders go where a new one is written
    assert not slow.exists()


@pytest.mark.parametrize("kind", [FakeVllm, FakeSglang])
async def test_a_server_that_cannot_name_its_weights_is_refused(
    tiny_folder: Path, connect: Connect, kind: type[FakeServer]
) -> None:
    """Neither a restart nor a second run could be noticed."""
    server = kind(tiny_folder)
    server.faults.names_nothing = True
    with pytest.raises(ConfigError, match="name"):
        await connect(here=server).act(ASKED, (), episode_id="a")
