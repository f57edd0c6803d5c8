"""Each event loop has an object of its own, and none is left open."""

from __future__ import annotations

import asyncio
import threading
import weakref

from agentrl.wire.per_loop import PerLoop


class Connection:
    """Refers to its loop, as every open connection does."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_closed = False

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self.loop
        self.is_closed = True


async def get(connections: PerLoop[Connection]) -> Connection:
    return connections.get()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_object_until_it_is_forgotten() -> None:
    connections = PerLoop(Connection)
    assert connections.peek() is None
    first = connections.get()
    assert connections.get() is connections.peek() is first
    connections.forget()
    assert connections.peek() is None
    assert connections.get() is not first


def test_each_loop_has_its_own() -> None:
    connections = PerLoop(Connection)
    with asyncio.Runner() as one, asyncio.Runner() as other:  # this test is about several event loops
        first, second = one.run(get(connections)), other.run(get(connections))
        assert first is not second
        assert one.run(get(connections)) is first


async def test_a_dropped_map_closes_its_object() -> None:
    connections = PerLoop(Connection, Connection.aclose)
    made = connections.get()
    del connections
    await settle()
    assert made.is_closed


async def test_a_dropped_map_closes_nothing_that_was_forgotten_or_is_not_its_own() -> None:
    forgetful, plain = PerLoop(Connection, Connection.aclose), PerLoop(Connection)
    forgotten, kept = forgetful.get(), plain.get()
    forgetful.forget()
    del forgetful, plain
    await settle()
    assert not forgotten.is_closed
    assert not kept.is_closed


async def test_a_map_that_another_thread_drops_closes_in_the_loop_of_the_object() -> None:
    waiting = [PerLoop(Connection, Connection.aclose)]
    made = waiting[0].get()
    thread = threading.Thread(target=waiting.clear)
    thread.start()
    thread.join()
    await settle()
    assert made.is_closed


def test_a_loop_that_is_closed_keeps_nothing_alive() -> None:
    connections = PerLoop(Connection, Connection.aclose)
    with asyncio.Runner() as loop:  # this test is about several event loops
        made = weakref.ref(loop.run(get(connections)))
    with asyncio.Runner() as loop:
        loop.run(get(connections))
        del connections  # one of its loops is closed already: that is no error
    assert made() is None
