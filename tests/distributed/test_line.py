"""The trainer's end of a connection: order, what cannot be read, and what comes too late."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from agentrl.distributed.line import Line
from agentrl.distributed.messages import Broken
from agentrl.distributed.shared import Packed, receive_descriptor, unpacked


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    ours, theirs = socket.socketpair()
    here, there = Connection(ours.detach()), Connection(theirs.detach())
    yield here, there
    there.close()


class Heard:
    """What a line has told."""

    def __init__(self, connection: Connection) -> None:
        self.messages: list[Any] = []
        self.ends = 0
        self.line = Line(connection, self.messages.append, self._end)

    def _end(self) -> None:
        self.ends += 1

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.messages) < count:
                await asyncio.sleep(0.001)


async def test_messages_go_both_ways_in_their_order(ends: tuple[Connection, Connection]) -> None:
    heard, there = Heard(ends[0]), ends[1]
    values = Packed({})
    for number in range(3):
        heard.line.send(number)
    heard.line.send("weights", values.fileno())
    values.close()
    assert [there.recv() for _ in range(4)] == [0, 1, 2, "weights"]
    descriptor = receive_descriptor(there)
    assert unpacked(descriptor) == {}
    os.close(descriptor)
    for number in range(3):
        there.send(number)
    await heard.until(3)
    assert heard.messages == [0, 1, 2]
    there.close()
    async with asyncio.timeout(30):
        while not heard.ends:
            await asyncio.sleep(0.001)
    heard.line.close()
    assert heard.ends == 1


async def test_an_answer_that_comes_after_the_end_is_dropped(ends: tuple[Connection, Connection]) -> None:
    """It lies in the socket, or was read and not yet told, when its process is given up."""
    heard, there = Heard(ends[0]), ends[1]
    there.send("in time")
    await heard.until(1)
    there.send("late")
    time.sleep(0.2)  # it is read, and the event loop has had no turn to tell it
    heard.line.close()
    await asyncio.sleep(0.05)
    assert heard.messages == ["in time"]
    assert heard.ends == 0
    heard.line.send("nobody is there")
    with pytest.raises((EOFError, OSError)):
        there.recv()


async def test_a_message_that_cannot_be_read_is_told_as_an_error(ends: tuple[Connection, Connection]) -> None:
    heard, there = Heard(ends[0]), ends[1]
    there.send_bytes(b"no pickle")
    there.send("next")
    await heard.until(2)
    assert isinstance(heard.messages[0], Broken)
    assert "cannot be read: UnpicklingError" in str(heard.messages[0].error)
    assert heard.messages[1] == "next"
    heard.line.close()


async def test_what_cannot_be_pickled_is_refused_where_it_is_sent(ends: tuple[Connection, Connection]) -> None:
    heard = Heard(ends[0])
    with pytest.raises((AttributeError, pickle.PicklingError)):
        heard.line.send(lambda: None)
    heard.line.close()
