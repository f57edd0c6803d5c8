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


def entry(kind: bytes, path: str, mode: int, content: bytes | bytearray) -> bytes:
    """One entry.

    Args:
        kind: `d` folder, `f` file, `l` link.
        path: relative to the folder.
        mode: permission bits.
        content: the bytes of a file, the target of a link, nothing for a folder.
    """
    name = os.fsencode(path)
    return _ENTRY.pack(kind, mode, len(name), len(content)) + name + content


def unpack(archive: Any) -> Iterator[tuple[bytes, str, int, bytes]]:
    """Kind, path, mode and content of every entry."""
    view, at = memoryview(archive), 0
    while at < len(view):
        kind, mode, name_size, size = _ENTRY.unpack_from(view, at)
        at += _ENTRY.size
        name = os.fsdecode(bytes(view[at : at + name_size]))
        yield kind, name, mode, bytes(view[at + name_size : at + name_size + size])
        at += name_size + size


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """An archive of files; loading it makes their folders."""
    return b"".join(entry(b"f", path, 0o644, content) for path, content in files.items())
