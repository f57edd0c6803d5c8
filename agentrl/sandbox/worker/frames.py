"""Messages between host and worker. Owns their form: lengths, a JSON header, raw parts; reads and writes nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

MAX_PARTS = 4
DESCRIPTORS, NO_DESCRIPTORS = b"s", b"-"
"""The byte before a reply that brings descriptors, and the one before a reply that should have brought some."""
PREFIX = struct.Struct(f"!{1 + MAX_PARTS}I")
"""The number of bytes of the header, then of each part; 0 for a part that is absent."""
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 1 << 30


class FrameError(ValueError):
    """A frame whose lengths are not allowed: the other side is broken or hostile."""


def pack(header: dict[str, Any] | bytes, parts: Sequence[bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """A frame, as the buffers to send one after the other.

    Args:
        header: a dictionary, or its JSON.
    """
    head = header if isinstance(header, bytes) else json.dumps(header).encode("ascii")
    sizes = [len(part) for part in parts]
    if len(head) > MAX_HEADER_BYTES or sum(sizes) > MAX_BODY_BYTES:
        raise FrameError(f"a frame of {len(head)} + {sum(sizes)} bytes is too large")
    absent = (0,) * (MAX_PARTS - len(sizes))
    return [PREFIX.pack(len(head), *sizes, *absent) + head, *[part for part in parts if len(part)]]


def left(buffers: Sequence[memoryview], sent: int) -> list[memoryview]:
    """What is left of the buffers when their first `sent` bytes have been sent."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


def lengths(prefix: bytes, max_body_bytes: int = MAX_BODY_BYTES) -> tuple[int, tuple[int, ...]]:
    """How many bytes of header and of each part follow this prefix.

    Raises: FrameError if they are above the caps.
    """
    head, *sizes = PREFIX.unpack(prefix)
    if head > MAX_HEADER_BYTES or sum(sizes) > max_body_bytes:
        raise FrameError(
            f"a frame announces {head} + {sum(sizes)} bytes, at most {MAX_HEADER_BYTES} + {max_body_bytes} fit"
        )
    return head, tuple(sizes)


class Headers:
    """Parses headers, and keeps the last one: the same header again is not parsed again."""

    def __init__(self) -> None:
        self._head = b"{}"
        self._header: dict[str, Any] = {}

    def parse(self, head: bytes) -> dict[str, Any]:
        """A header's dictionary.

        Raises: ValueError for anything but a JSON object (FrameError is a ValueError).
        """
        if head != self._head:
            header = json.loads(head)
            if not isinstance(header, dict):
                raise FrameError("a frame's header is no object")
            self._head, self._header = head, header
        return dict(self._header)


def split(body: Any, sizes: Sequence[int]) -> list[memoryview]:
    """The parts of a body; views, not copies."""
    view, parts, at = memoryview(body), [], 0
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    return parts
