"""Tensors in memory that other processes can map. It has no name, so a killed process leaves nothing behind.

Does not protect against other processes of the same user.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import IO, Any

import torch


class Packed:
    """A value that `torch.save` can write, in memory; it is freed when the last process has closed it."""

    def __init__(self, value: Any) -> None:
        self._file = _unnamed_file()
        torch.save(value, self._file)
        self._file.flush()

    def fileno(self) -> int:
        """The descriptor; another process that gets it calls `unpacked`."""
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def unpacked(descriptor: int, *, only_tensors: bool = True) -> Any:
    """The value of a `Packed`, copied.

    Args:
        descriptor: of the memory; stays open.
        only_tensors: False also makes objects of any class, for what this program itself has packed.
    """
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as memory:
        return torch.load(memory, weights_only=only_tensors)  # type: ignore[arg-type]


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("agentrl"), "wb+")
    return tempfile.TemporaryFile()
