from __future__ import annotations

import asyncio
import time

from agentrl.wire.control import MOST_KEPT, Controls, Successes


def test_the_nearest_success_is_the_newest_of_its_kind_or_the_newest_of_all() -> None:
    successes: Successes[str] = Successes()
    assert successes.nearest("a") is None
    for kind, request in (("a", "a1"), ("a", "a2"), ("b", "b1")):
        successes.add(kind, request)
    assert successes.nearest("a") == "a2"
    assert successes.nearest("c") == "b1"
    successes.add("a", "a3")
    assert successes.nearest("c") == "a3"


def test_only_a_few_successes_are_kept() -> None:
    successes: Successes[int] = Successes()
    for number in range(MOST_KEPT + 1):
        successes.add(number, number)
    assert successes.nearest(1) == 1
    assert successes.nearest(0) == MOST_KEPT, "the oldest is forgotten, so the newest of all answers for it"


async def test_failures_of_one_moment_share_a_control_and_a_later_one_has_its_own() -> None:
    controls, sent = Controls(), []

    async def send() -> int:
        sent.append("request")
        await asyncio.sleep(0)
        return 200

    failed_s = time.monotonic()
    assert await asyncio.gather(*(controls.ask("x", failed_s, send) for _ in range(20))) == [200] * 20
    assert len(sent) == 1
    await controls.ask("y", failed_s, send)
    await controls.ask("x", time.monotonic(), send)
    assert len(sent) == 3


async def test_a_cancelled_control_is_not_an_answer() -> None:
    controls, started = Controls(), asyncio.Event()

    async def hang() -> int:
        started.set()
        await asyncio.Event().wait()
        return 200

    async def refuse() -> int:
        return 0

    failed_s = time.monotonic()
    first = asyncio.create_task(controls.ask("x", failed_s, hang))
    await started.wait()
    second = asyncio.create_task(controls.ask("x", failed_s, refuse))
    first.cancel()
    assert await second == 0
