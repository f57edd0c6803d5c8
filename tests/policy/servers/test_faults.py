"""Servers that fail: a turn is asked again, of another one or later, and is never lost, doubled or a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Message
from agentrl.policy import model_folder
from agentrl.policy.servers import pool, replica
from agentrl.policy.servers.addresses import Servers
from agentrl.policy.servers.sampler import ServerSampler
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.trajectory import Task
from tests.policy.servers.conftest import Connect
from tests.policy.servers.fakes import FakeServer, FakeVllm

ASKED = [Message("user", "What is 12 + 34?")]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PAUSE_S", 0.001)
    monkeypatch.setattr(replica, "_FIRST_PAUSE_S", 0.005)


def choice(answer: dict[str, Any]) -> dict[str, Any]:
    """The part of an answer that holds the ids, of either kind of server."""
    found: dict[str, Any] = answer["choices"][0] if "choices" in answer else answer
    return found


def shift(ids: list[int]) -> list[int]:
    return [(token + 1) % 100 for token in ids]


def encoded_again(answer: dict[str, Any]) -> None:
    name = "token_ids" if "choices" in answer else "output_ids"
    choice(answer)[name] = shift(choice(answer)[name])


def one_token_too_many(answer: dict[str, Any]) -> None:
    name = "token_ids" if "choices" in answer else "output_ids"
    choice(answer)[name].append(5)


def prompt_encoded_again(answer: dict[str, Any]) -> None:
    if "choices" in answer:
        choice(answer)["prompt_token_ids"] = shift(choice(answer)["prompt_token_ids"])
    else:
        answer["meta_info"]["prompt_tokens"] += 1


def lost_logprobs(answer: dict[str, Any]) -> None:
    if "choices" in answer:
        choice(answer)["logprobs"] = None
    else:
        del answer["meta_info"]["output_token_logprobs"]


def no_numbers(answer: dict[str, Any]) -> None:
    if "choices" in answer:
        choice(answer)["logprobs"]["token_logprobs"][0] = None
    else:
        answer["meta_info"]["output_token_logprobs"][0][0] = None


def positive(answer: dict[str, Any]) -> None:
    if "choices" in answer:
        choice(answer)["logprobs"]["token_logprobs"][0] = 3.0
    else:
        answer["meta_info"]["output_token_logprobs"][0][0] = 3.0


def aborted(answer: dict[str, Any]) -> None:
    if "choices" in answer:
        choice(answer)["finish_reason"] = "abort"
    else:
        answer["meta_info"]["finish_reason"] = {"type": "abort", "message": "x"}


WRONG = [encoded_again, one_token_too_many, prompt_encoded_again, lost_logprobs, no_numbers, positive, aborted]


@pytest.mark.parametrize("edit", WRONG)
async def test_an_answer_that_cannot_be_right_is_no_turn(
    server: FakeServer, connect: Connect, edit: Callable[[dict[str, Any]], None]
) -> None:
    sampler = connect(here=server)
    good = await sampler.act(ASKED, (), episode_id="a")
    server.faults.edit = edit
    with pytest.raises(PolicyFault, match=r"no server sampled a turn in 4 tries; the last failure: http://here"):
        await sampler.act(ASKED, (), episode_id="b")
    server.faults.edit = None
    assert (await sampler.act(ASKED, (), episode_id="c")).prompt_ids == good.prompt_ids


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices": []}', b"[" * 100_000, b"\xff"])
async def test_200_with_garbage_is_an_infrastructure_fault(server: FakeServer, connect: Connect, body: bytes) -> None:
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    server.faults.garbage = body
    with pytest.raises(PolicyFault, match=r"cannot be read|0 answers"):
        await sampler.act(ASKED, (), episode_id="b")


async def test_a_busy_server_is_asked_later_and_one_that_fails_again(server: FakeServer, connect: Connect) -> None:
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    server.faults.busy, server.faults.failing = 3, 3
    assert (await sampler.act(ASKED, (), episode_id="b")).token_ids
    assert (server.faults.busy, server.faults.failing) == (0, 0)
    assert sampler.metrics["scale/server_losses"] == 0


async def test_an_episode_stays_on_its_server(tiny_folder: Path, connect: Connect) -> None:
    one, other = FakeVllm(tiny_folder), FakeVllm(tiny_folder)
    sampler = connect(one=one, other=other)
    for _ in range(3):
        for name in ("a", "b", "c", "d"):
            await sampler.act(ASKED, (), episode_id=name)
    turns = [sum("stop_token_ids" in turn for turn in server.seen.turns) for server in (one, other)]
    assert turns == [6, 6]


async def test_a_lost_server_is_replaced_by_another_one_and_comes_back(tiny_folder: Path, connect: Connect) -> None:
    one, other = FakeVllm(tiny_folder), FakeVllm(tiny_folder)
    sampler = connect(one=one, other=other)
    for name in ("a", "b"):
        await sampler.act(ASKED, (), episode_id=name)
    sampler.weights_changed()
    one.faults.gone = True
    for name in ("a", "b"):
        assert (await sampler.act(ASKED, (), episode_id=name)).versions[0] == 1
    assert (sampler.metrics["scale/servers"], sampler.metrics["scale/server_losses"]) == (1.0, 1.0)
    one.faults.gone = False
    one.start()
    await asyncio.sleep(0.02)
    sampler.weights_changed()
    for number in range(4):
        assert (await sampler.act(ASKED, (), episode_id=f"later {number}")).versions[0] == 2
    assert one.name == other.name
    assert one.name.startswith("v000002")


async def test_a_server_that_began_again_gets_its_weights_before_it_samples(
    server: FakeServer, connect: Connect
) -> None:
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    name = server.name
    server.start()  # so fast that no request failed
    assert server.name != name
    action = await sampler.act(ASKED, (), episode_id="b")
    assert (action.versions[0], server.name) == (0, name)
    assert sampler.metrics["scale/server_losses"] == 1


async def test_a_server_that_is_gone_for_too_long_is_an_infrastructure_fault(
    server: FakeServer, connect: Connect
) -> None:
    sampler = connect(wait_s=0.05, here=server)
    await sampler.act(ASKED, (), episode_id="a")
    server.faults.gone = True
    with pytest.raises(PolicyFault, match=r"no server could be reached for 0.05 s \(http://here\)") as caught:
        await sampler.act(ASKED, (), episode_id="b")
    assert caught.value.at == "network"


async def test_a_connection_that_was_closed_while_idle_is_no_lost_server(server: FakeServer, connect: Connect) -> None:
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    server.faults.closing = 1
    assert (await sampler.act(ASKED, (), episode_id="b")).token_ids
    assert server.faults.closing == 0
    assert sampler.metrics["scale/server_losses"] == 0
    assert sum("pause" in path for path in server.seen.paths) == 1


async def test_a_pause_whose_answer_was_lost_is_ended(server: FakeServer, connect: Connect) -> None:
    """Others may sample from the server too, and would wait without end."""
    sampler = connect(here=server)
    server.faults.pause_lost = True
    with pytest.raises(PolicyFault, match=r"http://here/pause\S* gave no answer"):
        await sampler.act(ASKED, (), episode_id="a")
    assert not server.paused


async def test_a_server_that_another_run_gives_weights_is_refused(server: FakeServer, connect: Connect) -> None:
    sampler, other = connect(here=server), connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    assert (await other.act(ASKED, (), episode_id="b")).token_ids
    with pytest.raises(ConfigError, match=r"http://here has the weights 'v\S+' of another run.*its own server"):
        await sampler.act(ASKED, (), episode_id="a")
    assert (await other.act(ASKED, (), episode_id="b")).token_ids


async def test_a_turn_that_was_cancelled_leaves_the_server_usable(server: FakeServer, connect: Connect) -> None:
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    asked = asyncio.ensure_future(sampler.act(ASKED, (), episode_id="b"))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    sampler.weights_changed()
    assert (await sampler.act(ASKED, (), episode_id="b")).versions[0] == 1


async def test_new_weights_wait_for_turns_under_way(server: FakeServer, connect: Connect) -> None:
    """No turn is of two versions: one that began before the update ends before the server takes new weights."""
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    under_way = [asyncio.ensure_future(sampler.act(ASKED, (), episode_id=f"old {n}")) for n in range(4)]
    while not any("completions" in path or "generate" in path for path in server.seen.paths[-1:]):
        await asyncio.sleep(0)
    sampler.weights_changed()
    later = [asyncio.ensure_future(sampler.act(ASKED, (), episode_id=f"new {n}")) for n in range(4)]
    versions = [{*action.versions} for action in await asyncio.gather(*under_way, *later)]
    assert all(len(found) == 1 for found in versions)
    assert versions[-4:] == [{1}] * 4


class Silent(ToolEnv):
    """Says nothing of use and pays 1, so that a reward of 0 could only come from a fault."""

    tasks = Tasks.of(train=[{"n": n} for n in range(4)])

    def start(self, task: Task) -> str:
        return "Say anything."

    def score(self, answer: str | None) -> float:
        return 1.0


async def test_a_server_killed_in_mid_run_costs_no_episode(tiny_folder: Path, connect: Connect) -> None:
    one, other = FakeVllm(tiny_folder), FakeVllm(tiny_folder)
    sampler = connect(one=one, other=other)

    async def killed() -> None:
        while len(one.seen.turns) < 3:
            await asyncio.sleep(0)
        one.faults.gone = True

    killer = asyncio.ensure_future(killed())
    async with Rollouts(Silent, sampler, max_concurrency=4) as rollouts:
        groups = await rollouts.run(GroupRequest(task, 0, 4) for task in Silent.tasks.split("train"))
    await killer
    episodes = [episode for group in groups for episode in group.trajectories]
    assert [episode.status for episode in episodes].count("fault") == 0
    assert len(episodes) == 16
    assert {turn.action.finish_reason for episode in episodes for turn in episode.turns} <= {"stop", "length"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "is not the address of a server"),
        ("http://localhost:8000/v1", "without a path"),
        ("ftp://localhost", "is not the address"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        Servers((url,), tmp_path)


async def test_what_a_server_cannot_do_is_refused_before_a_turn(
    server: FakeServer, connect: Connect, tmp_path: Path
) -> None:
    sampler = connect(here=server)
    server.context = 100
    with pytest.raises(ConfigError, match=r"takes 100 tokens of context, and an episode may have 256"):
        await sampler.greet()
    server.context = 512
    server.owned_by = "llamacpp"
    with pytest.raises(ConfigError, match=r"says that it is 'llamacpp': expected one of vllm, sglang"):
        await sampler.greet()
    server.faults.gone = True
    with pytest.raises(ConfigError, match=r"cannot be reached: ConnectError.* Start the server"):
        await sampler.greet()


async def test_a_server_that_wants_a_key_says_so(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("authorization", ""))
        return httpx.Response(401, json={"error": "Unauthorized"})

    monkeypatch.setenv("AGENTRL_SERVER_KEY", "secret-key-of-the-server")
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, transport=transport))
    model, tokenizer = model_folder.load(tiny_folder)
    async with ServerSampler(model, tokenizer, Servers(("http://here",), tmp_path / "weights")) as sampler:
        with pytest.raises(ConfigError, match="AGENTRL_SERVER_KEY") as caught:
            await sampler.greet()
    assert asked == ["Bearer secret-key-of-the-server"]
    assert "secret" not in str(caught.value)
