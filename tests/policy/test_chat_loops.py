"""Chat policies under concurrency: bounded requests, several event loops, cancelling, closing."""

import asyncio
import gc
import threading
import time
import warnings

import httpx
import pytest

from agentrl.policy.chat import ChatPolicy
from tests.policy.chat_server import ChatServer, completion
from tests.policy.one_turn import QUESTION, TOOLS


async def test_requests_in_flight_are_bounded(server: ChatServer) -> None:
    server.script(*[{"delay_s": 0.05, "json": completion("x")}] * 12)
    async with ChatPolicy("bot", base_url=server.url, max_concurrency=3) as policy:
        actions = await asyncio.gather(*(policy.act(QUESTION, (), episode_id=str(i)) for i in range(12)))
    assert len(actions) == 12
    assert server.log()["most_in_flight"] == 3


async def test_requests_are_spaced(server: ChatServer) -> None:
    started = time.time()
    async with ChatPolicy("bot", base_url=server.url, requests_per_minute=1200) as policy:
        await asyncio.gather(*(policy.act(QUESTION, (), episode_id=str(i)) for i in range(5)))
    times = [request["at"] for request in server.log()["requests"]]
    assert max(times) - started >= 4 * 0.05 - 0.005  # 1200 a minute: 50 ms apart


def test_one_policy_serves_one_event_loop_after_another(server: ChatServer) -> None:
    policy = ChatPolicy("bot", base_url=server.url)
    for number in range(3):
        with asyncio.Runner() as loop:  # this test is about several event loops
            action = loop.run(policy.act(QUESTION, TOOLS, episode_id=str(number)))
        assert action.tool_calls[0].name == "add"


def test_two_event_loops_at_once(server: ChatServer) -> None:
    policy, texts = ChatPolicy("bot", base_url=server.url), []

    def play() -> None:
        async def turns() -> None:
            for number in range(5):
                action = await policy.act(QUESTION, TOOLS, episode_id=str(number))
                texts.append(action.tool_calls[0].name)
            await policy.aclose()

        with asyncio.Runner() as loop:  # this test is about several event loops
            loop.run(turns())

    threads = [threading.Thread(target=play) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["add"] * 10


async def test_a_closed_policy_opens_again(server: ChatServer) -> None:
    policy = ChatPolicy("bot", base_url=server.url)
    for _ in range(2):
        assert len((await policy.act(QUESTION, TOOLS, episode_id="e")).tool_calls) == 1
        await policy.aclose()
        await policy.aclose()


async def test_cancelling_frees_the_slot(server: ChatServer) -> None:
    server.script({"delay_s": 20.0, "json": completion("late")}, {"json": completion("next")})
    async with ChatPolicy("bot", base_url=server.url, max_concurrency=1) as policy:
        slow = asyncio.create_task(policy.act(QUESTION, (), episode_id="a"))
        while not (await asyncio.to_thread(server.log))["requests"]:
            await asyncio.sleep(0.01)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await policy.act(QUESTION, (), episode_id="b")).text == "next"


async def test_a_policy_that_is_dropped_closes_its_connections(server: ChatServer) -> None:
    gc.collect()  # what other tests left open
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        policy = ChatPolicy("bot", base_url=server.url)
        await policy.act(QUESTION, (), episode_id="e")
        del policy
        for _ in range(20):
            await asyncio.sleep(0)
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


async def test_a_given_client_is_used_and_left_open(server: ChatServer) -> None:
    async with httpx.AsyncClient(headers={"X-Mine": "yes"}) as client:
        async with ChatPolicy("bot", base_url=server.url, client=client) as policy:
            await policy.act(QUESTION, (), episode_id="e")
        policy = ChatPolicy("bot", base_url=server.url, client=client)
        await policy.act(QUESTION, (), episode_id="e")
        del policy
        await asyncio.sleep(0.01)
        assert not client.is_closed
    assert server.log()["requests"][0]["headers"]["X-Mine"] == "yes"
