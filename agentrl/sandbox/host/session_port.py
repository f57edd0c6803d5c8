"""A session's own pipes, in the host's hands, for cells that end soon. Owns the descriptors.

The worker forks a session, watches it and ends it. A short cell goes past it: that saves a process two turns.
What comes out of these pipes is the session's word, as it is when a worker carries it.
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
"""Where a session takes its code, and where it answers, prints and complains."""
MAX_CODE_BYTES = select.PIPE_BUF - LENGTH.size
"""A pipe takes so much at once or not at all."""
_SOON_S = 0.024
_CHUNK, _HALF_A_PIPE = 1 << 16, 1 << 15


@dataclass(frozen=True)
class Answer:
    """How a cell ended, and what it left in the pipes."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool


class SessionPort:
    """One session's pipes; one cell at a time.

    Args:
        fds: of `PIPES`, in that order; none of them blocks. They are closed by `close`.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = list(fds)
        self._requests, self._answers, self._stdout, self._stderr = fds
        self._reader: Answers | None = None

    def send(self, code: bytes) -> bool:
        """Give the session a cell; returns whether it got it, whole."""
        if len(code) > MAX_CODE_BYTES:
            return False
        try:
            os.write(self._requests, LENGTH.pack(len(code)) + code)
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    async def answer(self, keep: int, wait_s: float) -> Answer | None:
        """How the cell that was sent ended; None where that is for the worker to say.

        It is where the cell goes on for some moments, or fills a pipe, which somebody has to read, and where the
        session has ended. Until the answer has come nothing is read.

        Args:
            keep: bytes of each output at most; what is above is dropped.
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
        """Let go of the pipes; may be called twice."""
        if self._fds:
            self._forget()
        while self._fds:
            os.close(self._fds.pop())


def _waiting_bytes(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _read(fd: int, keep: int) -> bytes:
    """What is in a pipe, up to a chunk more than is kept; a pipe that is written to all the time has no end."""
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
