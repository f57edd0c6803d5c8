"""A worker's view of a pipe: when it fills up, and that waiting for an end does not wait for a full pipe."""

from __future__ import annotations

import os
import select

import pytest

from agentrl.sandbox.worker.capture import ends_soon
from agentrl.sandbox.worker.stream import Stream


@pytest.fixture
def pipe():
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield Stream(read, 100_000), write
    os.close(read)
    os.close(write)


def test_half_a_pipe_is_filling_and_reading_empties_it(pipe):
    stream, write = pipe
    os.write(write, b"x" * 32767)
    assert not stream.filling()
    os.write(write, b"x")
    assert stream.filling()
    stream.take()
    assert not stream.filling()
    assert bytes(stream.content) == b"x" * 32768


@pytest.mark.parametrize(
    ("printed", "ends", "expected"), [(10, True, True), (10, False, False), (40_000, False, False)]
)
def test_an_end_is_waited_for_some_moments(pipe, printed, ends, expected):
    stream, write = pipe
    os.write(write, b"x" * printed)
    end, ending = os.pipe()
    poll = select.poll()
    poll.register(end, select.POLLIN)
    if ends:
        os.write(ending, b".")
    assert ends_soon(poll, end, [stream]) is expected
    os.close(end)
    os.close(ending)
