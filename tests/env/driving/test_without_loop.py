"""Coroutines that never wait run without an event loop; those that wait are told apart."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.env.driving.without_loop import contains_await, loop_is_running, run_without_loop


def test_driving_without_a_loop():
    async def waits():
        await asyncio.sleep(0)

    async def never_waits():
        return 3

    assert run_without_loop(never_waits()) == 3
    with pytest.raises(RuntimeError, match="this coroutine waits"):
        run_without_loop(waits())
    assert contains_await(waits)
    assert not contains_await(never_waits)
    assert not contains_await(len)


async def test_a_running_loop_is_seen():
    assert loop_is_running()
    assert not await asyncio.to_thread(loop_is_running)
