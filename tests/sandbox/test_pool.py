"""The pool: order, caps, replacement. Most of it on a backend that only counts; some on bubblewrap."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.sandbox import SandboxError, SandboxFault, SandboxSpec, make_backend
from agentrl.sandbox.base import Backend, Report, Sandbox
from agentrl.sandbox.pool import Pool


class Counted(Sandbox):
    """A sandbox that does nothing."""

    def __init__(self, number: int, backend: Counting) -> None:
        self.number, self.backend, self.poisoned, self.resets = number, backend, False, 0

    async def reset(self):
        self.resets += 1
        if self.poisoned:
            raise SandboxFault("poisoned")

    async def healthy(self):
        return not self.poisoned

    async def close(self):
        self.backend.closed.append(self.number)

    exec = run_python = call = write = read = entries = snapshot = restore = None  # type: ignore[assignment]


class Counting(Backend):
    """Counts starts."""

    name = "counting"

    def __init__(self, fail: int = -1) -> None:
        self.started, self.starting, self.most, self.reaped, self.fail = 0, 0, 0, 0, fail
        self.closed: list[int] = []

    async def start(self, spec):
        self.starting += 1
        self.most = max(self.most, self.starting)
        await asyncio.sleep(0.01)
        self.starting -= 1
        self.started += 1
        if self.started == self.fail:
            raise SandboxFault("cannot start")
        return Counted(self.started, self)

    async def doctor(self):
        return Report(self.name, True, ())

    async def reap(self):
        self.reaped += 1
        return 0


def test_it_lends_at_most_its_size_and_serves_who_came_first():
    async def scenario():
        pool = Pool(Counting(), SandboxSpec(), size=2)
        order, most = [], 0

        async def episode(index):
            nonlocal most
            async with pool.sandbox():
                order.append(index)
                most = max(most, pool.lent)
                await asyncio.sleep(0.02)

        async with pool:
            await asyncio.gather(*(episode(index) for index in range(8)))
        return order, most, pool

    order, most, pool = asyncio.run(scenario())
    assert order == list(range(8))
    assert most == 2
    assert pool.lent == 0
    assert pool._backend.started == 2
    assert sorted(pool._backend.closed) == [1, 2]


def test_starts_are_capped_and_warm_ones_stand_ready():
    async def scenario():
        backend = Counting()
        async with Pool(backend, SandboxSpec(), size=6, starting=2, warm=6) as pool:
            assert backend.started == 6
            lent = [await pool.acquire() for _ in range(6)]
            assert backend.started == 6
            for sandbox in lent:
                await pool.release(sandbox)
        return backend

    backend = asyncio.run(scenario())
    assert backend.most == 2
    assert backend.reaped == 1
    assert sorted(backend.closed) == [1, 2, 3, 4, 5, 6]


def test_a_poisoned_sandbox_is_replaced_and_a_used_one_reset():
    async def scenario():
        async with Pool(Counting(), SandboxSpec(), size=1) as pool:
            first = await pool.acquire()
            await pool.release(first)
            again = await pool.acquire()
            assert again is first
            assert first.resets == 1
            again.poisoned = True
            await pool.release(again)
            other = await pool.acquire()
            assert other.number == 2
            assert pool._backend.closed == [1]
            await pool.release(other)

    asyncio.run(scenario())


def test_a_worn_sandbox_is_replaced():
    async def scenario():
        async with Pool(Counting(), SandboxSpec(), size=1, uses=2) as pool:
            numbers = []
            for _ in range(5):
                async with pool.sandbox() as sandbox:
                    numbers.append(sandbox.number)
            return numbers

    assert asyncio.run(scenario()) == [1, 1, 2, 2, 3]


def test_a_failed_start_gives_its_place_to_the_next_in_line():
    async def scenario():
        async with Pool(Counting(fail=1), SandboxSpec(), size=1) as pool:

            async def episode():
                async with pool.sandbox() as sandbox:
                    return sandbox.number

            return await asyncio.gather(episode(), episode(), return_exceptions=True)

    failed, served = asyncio.run(scenario())
    assert isinstance(failed, SandboxFault)
    assert served == 2


def test_a_cancelled_wait_loses_no_place():
    async def scenario():
        async with Pool(Counting(), SandboxSpec(), size=1) as pool:
            held = await pool.acquire()
            waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await pool.release(held)
            waiting_second = await asyncio.wait_for(waiting[1], 1)
            await pool.release(waiting_second)
            await pool.release(await asyncio.wait_for(waiting[2], 1))
            return pool.lent

    assert asyncio.run(scenario()) == 0


def test_closing_ends_the_line_and_a_second_return_is_refused():
    async def scenario():
        pool = Pool(Counting(), SandboxSpec(), size=1)
        held = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(SandboxFault, match="was closed"):
            await waiting
        with pytest.raises(SandboxFault, match="is closed"):
            await pool.acquire()
        await pool.release(held)
        with pytest.raises(SandboxError, match="not lent"):
            await pool.release(held)
        return pool._backend.closed

    assert asyncio.run(scenario()) == [1]


@pytest.mark.parametrize("options", [{"size": 0}, {"starting": 0}, {"size": 1, "warm": 2}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="a pool needs"):
        Pool(Counting(), SandboxSpec(), **options)


def test_bubblewrap_sandboxes_are_reset_between_episodes_and_replaced_when_killed():
    async def scenario():
        async with Pool(make_backend("bubblewrap"), SandboxSpec(files={"given": b"1"}), size=1) as pool:
            async with pool.sandbox() as sandbox:
                await sandbox.run_python("x = 1; open('left', 'w'); open('/tmp/left', 'w')", session="s")
            async with pool.sandbox() as again:
                assert again is sandbox
                assert [entry.path for entry in await again.entries()] == ["given"]
                assert (await again.run_python("x", session="s")).status == "nonzero"
                again._process.kill()
            async with pool.sandbox() as fresh:
                assert fresh is not again
                assert (await fresh.run_python("print(1)")).ok

    asyncio.run(scenario())
