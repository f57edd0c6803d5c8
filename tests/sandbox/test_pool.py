"""Lending sandboxes: what is interrupted or cannot be closed is not lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentrl.sandbox import SandboxSpec
from agentrl.sandbox.pool import Pool


class Still:
    """A sandbox in which nothing runs."""

    lost = False

    def __init__(self) -> None:
        self.asked, self.closed, self.fails = asyncio.Event(), 0, False

    async def reset(self) -> None:
        pass

    async def healthy(self) -> bool:
        self.asked.set()
        await asyncio.Event().wait()
        return True

    async def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise TimeoutError("programs in it take long to end")


class Backend:
    def __init__(self) -> None:
        self.made: list[Still] = []

    async def reap(self) -> None:
        pass

    async def start(self, spec: SandboxSpec) -> Still:
        self.made.append(Still())
        return self.made[-1]


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def pool(backend: Any) -> Pool:
    return Pool(backend, SandboxSpec())


async def test_a_sandbox_is_closed_whose_look_was_cancelled(pool, backend):
    first = await pool.lend()
    await pool.take_back(first)
    waiting = asyncio.create_task(pool.lend())
    await first.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert first.closed == 1
    assert await pool.lend() is backend.made[1]


async def test_one_that_cannot_be_closed_keeps_no_other_open(pool, backend):
    lent = [await pool.lend() for _ in range(3)]
    for one in lent:
        await pool.take_back(one)
    lent[0].fails = True
    await pool.clear()
    assert [one.closed >= 1 for one in lent] == [True] * 3
    lent[0].fails = False
    closed = lent[0].closed
    await pool.clear()
    assert lent[0].closed == closed + 1
