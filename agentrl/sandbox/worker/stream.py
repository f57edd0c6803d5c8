"""Reading what a child writes into a pipe, up to a cap. Owns the memory for it; the reader zeroes it after use.

Later children are copies of the worker, so nothing that a program printed may stay in freed memory. Therefore bytes
go from the pipe into mapped memory of their own, and nowhere else.
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
"""Receives the bytes that are dropped."""


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
        """What was kept; a view, to be zeroed after use."""
        return self._kept[: self._used]

    def rewind(self, keep: int) -> None:
        """Start again with another cap; what was kept must have been zeroed."""
        if keep > len(self._kept):
            self._kept = _room(keep)
        self.keep = keep
        self._used, self.dropped = 0, False

    def filling(self) -> bool:
        """Whether the pipe is at least half full, so that a writer may soon have to wait."""
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
        return count == size  # a read that returns less has emptied the pipe


def _room(size: int) -> memoryview:
    # The kernel makes a page when it is first written to, so a large cap alone costs nothing.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
