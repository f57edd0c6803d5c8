"""Tensors in memory that other processes can map. It has no name, so a killed process leaves nothing behind.

Does not protect against other processes of the same user.
"""

from __future__ import annotations

import io
import mmap
import os
import socket
import tempfile
from multiprocessing.connection import Connection
from typing import IO, Any

import torch


class Packed:
    """A value that `torch.save` can write, in memory; it is freed when the last process has closed it."""

    def __init__(self, value: Any) -> None:
        self._file = _unnamed_file()
        torch.save(value, self._file)
        self._file.flush()

    @classmethod
    def of(cls, written: bytes) -> Packed:
        """The value that `packed_bytes` has written."""
        packed = cls.__new__(cls)
        packed._file = _unnamed_file()
        packed._file.write(written)
        packed._file.flush()
        return packed

    def fileno(self) -> int:
        """The descriptor; another process that gets it calls `unpacked`."""
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def packed_bytes(value: Any) -> bytes:
    """A value that `torch.save` can write, for a process that maps no memory of this one."""
    written = io.BytesIO()
    torch.save(value, written)
    return written.getvalue()


def unpacked(descriptor: int, *, only_tensors: bool = True, device: str | None = None) -> Any:
    """The value of a `Packed`, copied.

    Args:
        descriptor: of the memory; stays open.
        only_tensors: False also makes objects of any class, for what this program itself has packed.
        device: for all tensors; None leaves each on that where it was.
    """
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as memory:
        return torch.load(memory, map_location=device, weights_only=only_tensors)  # type: ignore[arg-type]


def send_descriptor(connection: Connection, descriptor: int) -> None:
    """Hand a descriptor to the process at the other end of a connection, which calls `receive_descriptor`."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        socket.send_fds(end, [b"."], [descriptor])


def receive_descriptor(connection: Connection) -> int:
    """The descriptor that comes next; the caller closes it. Raises: EOFError if the other process is gone."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not descriptors:
        raise EOFError
    return descriptors[0]


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("agentrl"), "wb+")
    return tempfile.TemporaryFile()
