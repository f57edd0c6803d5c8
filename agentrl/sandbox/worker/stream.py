"""What a child writes into a pipe, kept up to a cap. Owns the memory, which is zeroed when it has been sent.

The worker's later children are copies of it: nothing that a program said may stay in freed memory. So bytes go
from the pipe into mapped memory of their own, and nowhere else.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import termios

_CHUNK = 1 << 16
_HALF_A_PIPE = 1 << 15
_scratch = mmap.mmap(-1, _CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
"""Where dropped bytes go."""


class Stream:
    """One pipe from a child: keeps the first `keep` bytes, reads and drops the rest."""

    def __init__(self, fd: int, keep: int) -> None:
        self.fd = fd
        self.keep = keep
        self.dropped = False
        self.ended = False
        self._used = 0
        self._kept = _room(keep)

    @property
    def content(self) -> memoryview:
        """What was kept, in place: zero it when it has been used."""
        return self._kept[: self._used]

    def rewind(self, keep: int) -> None:
        """Begin anew with another cap; what was kept must have been zeroed."""
        if keep > len(self._kept):
            self._kept = _room(keep)
        self.keep = keep
        self._used, self.dropped = 0, False

    def filling(self) -> bool:
        """Whether half a pipe waits to be read: a writer may soon have to wait."""
        return int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), sys.byteorder) >= _HALF_A_PIPE

    def take(self) -> bool:
        """Read what is there, at most one chunk; returns whether there may be more."""
        room = self._kept[self._used : min(self._used + _CHUNK, self.keep)]
        size = len(room) or _CHUNK
        try:
            count = os.readv(self.fd, [room if room else _scratch])
        except BlockingIOError:
            return False
        if not count:
            self.ended = True
        elif room:
            self._used += count
        else:
            self.dropped = True
            _scratch[:count] = bytes(count)
        return count == size  # a pipe gives all that it holds


def _room(size: int) -> memoryview:
    # Pages come into being when they are written to: a large cap costs nothing by itself.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
