"""Frames between host and worker: a JSON header and raw parts, length-prefixed. Owns packing; does no I/O."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

PREFIX = struct.Struct("!II")
"""Bytes of header, bytes of all parts together."""
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 1 << 30


class FrameError(ValueError):
    """A frame whose lengths do not fit: the peer is broken or lies."""


def pack(header: dict[str, Any], parts: Sequence[bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """A frame as the buffers to send, one after the other."""
    head = json.dumps({**header, "parts": [len(part) for part in parts]}).encode("ascii")
    size = sum(len(part) for part in parts)
    if len(head) > MAX_HEADER_BYTES or size > MAX_BODY_BYTES:
        raise FrameError(f"a frame of {len(head)} + {size} bytes is too large")
    return [PREFIX.pack(len(head), size) + head, *parts]


def left(buffers: Sequence[memoryview], sent: int) -> list[memoryview]:
    """What is left of buffers when so many bytes of them have gone."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


def lengths(prefix: bytes, max_body_bytes: int = MAX_BODY_BYTES) -> tuple[int, int]:
    """Bytes of header and body that follow a prefix.

    Raises: FrameError where they are above the caps.
    """
    head, body = PREFIX.unpack(prefix)
    if head > MAX_HEADER_BYTES or body > max_body_bytes:
        raise FrameError(f"a frame announces {head} + {body} bytes, at most {MAX_HEADER_BYTES} + {max_body_bytes} fit")
    return head, body


def unpack(head: bytes, body: Any) -> tuple[dict[str, Any], list[memoryview]]:
    """Header and parts of a frame; the parts are views, not copies."""
    header = json.loads(bytes(head))
    sizes = header.get("parts") if isinstance(header, dict) else None
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise FrameError("a frame's header names no parts")
    if sum(sizes) != len(body):
        raise FrameError("a frame's parts do not add up to its body")
    view, parts, at = memoryview(body), [], 0
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    return header, parts
