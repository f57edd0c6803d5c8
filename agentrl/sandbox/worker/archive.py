"""A work folder as bytes: its entries one after the other. Owns packing and unpacking; touches no file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

MAX_PATH_BYTES = 4095
"""The kernel takes no longer path at once."""
_ENTRY = struct.Struct("!cIIQ")
"""Kind, mode, size of the path in bytes, size of the content in bytes."""


def entry(kind: bytes, path: str, mode: int, content: bytes) -> bytes:
    """One entry.

    Args:
        kind: `d` folder, `f` file, `l` link.
        path: relative to the folder.
        mode: permission bits.
        content: the bytes of a file, the target of a link, nothing for a folder.
    """
    name = os.fsencode(path)
    return _ENTRY.pack(kind, mode, len(name), len(content)) + name + content


class Writer:
    """Writes an archive into mapped memory of its own, and copies no content: later programs are forks of its process.

    Args:
        room: a buffer that is large enough for all entries.
    """

    def __init__(self, room: memoryview) -> None:
        self._room = room
        self._used = 0

    @property
    def content(self) -> memoryview:
        """What has been written."""
        return self._room[: self._used]

    def room_for(self, path: str) -> memoryview:
        """Where the content of the next entry belongs, which has this path."""
        return self._room[self._used + _ENTRY.size + len(os.fsencode(path)) :]

    def add(self, kind: bytes, path: str, mode: int, size: int) -> None:
        """Add an entry, as `entry` makes it; its content, of this size, stands in `room_for(path)` already."""
        name = os.fsencode(path)
        _ENTRY.pack_into(self._room, self._used, kind, mode, len(name), size)
        self._used += _ENTRY.size
        self._room[self._used : self._used + len(name)] = name
        self._used += len(name) + size


def unpack(archive: Any) -> Iterator[tuple[bytes, str, int, memoryview]]:
    """Kind, path, mode and content of every entry; contents are views of the archive, not copies."""
    view, at = memoryview(archive), 0
    while at < len(view):
        kind, mode, name_size, size = _ENTRY.unpack_from(view, at)
        at += _ENTRY.size
        name = os.fsdecode(bytes(view[at : at + name_size]))
        yield kind, name, mode, view[at + name_size : at + name_size + size]
        at += name_size + size


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """An archive of files; loading it makes their folders."""
    return b"".join(entry(b"f", path, 0o644, content) for path, content in files.items())
