"""The pipes of a session, for cells that end soon. Owns the host's descriptors of them, not the session.

The worker starts a session, watches it and ends it. A short cell goes directly from the host to the session, which
saves waking the worker twice. What comes out of these pipes is written by foreign code, and is trusted no more than
what the worker reads from them.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.sandbox.host.pipe_waits import Answers
from agentrl.sandbox.worker.programs import LENGTH

PIPES = 4
"""How many pipes a session has: for code, answers, stdout and stderr."""
MAX_CODE_BYTES = select.PIPE_BUF - LENGTH.size
"""A pipe takes a write of at most this size whole or not at all."""
_SOON_S = 0.024
_CHUNK, _HALF_A_PIPE = 1 << 16, 1 << 15


@dataclass(frozen=True)
class Answer:
    """How a cell ended, and what it printed."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool


class SessionPort:
    """The pipes of one session, for one cell at a time.

    Args:
        fds: non-blocking descriptors for code, answers, stdout and stderr; `close` closes them.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = list(fds)
        self._requests, self._answers, self._stdout, self._stderr = fds
        self._reader: Answers | None = None

    def send(self, code: bytes) -> bool:
        """Send a cell to the session; returns whether it was sent. Nothing is sent of a cell that is too long."""
        if len(code) > MAX_CODE_BYTES:
            return False
        try:
            os.write(self._requests, LENGTH.pack(len(code)) + code)
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    async def answer(self, keep: int, wait_s: float) -> Answer | None:
        """How the cell that was sent ended. Returns None if the worker must finish this cell.

        That is so if the cell takes longer than 24 ms, if its output fills a pipe, or if the session has ended. No
        output has then been read.

        Args:
            keep: how many bytes of each output are kept; the rest is dropped.
            wait_s: longest wait, if that is less than 24 ms.
        """
        here = Answers.here()
        if here is not self._reader:
            self._forget()
            self._reader = here
        code = await here.read(self._answers, LENGTH.size, min(wait_s, _SOON_S), self._filling)
        if code is None or len(code) < LENGTH.size:
            return None
        stdout, stderr = _read(self._stdout, keep), _read(self._stderr, keep)
        truncated = len(stdout) > keep or len(stderr) > keep
        return Answer(LENGTH.unpack(code)[0], stdout[:keep], stderr[:keep], truncated)

    def _filling(self) -> bool:
        return any(_waiting_bytes(fd) >= _HALF_A_PIPE for fd in (self._stdout, self._stderr))

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.forget(self._answers)

    def close(self) -> None:
        """Close the pipes; may be called twice."""
        if self._fds:
            self._forget()
        while self._fds:
            os.close(self._fds.pop())


def _waiting_bytes(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _read(fd: int, keep: int) -> bytes:
    """What is in a pipe, at most one chunk more than is kept: a pipe that is written to all the time never ends."""
    content = b""
    while len(content) <= keep:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            break
        content += chunk
        if len(chunk) < _CHUNK:
            break
    return content
