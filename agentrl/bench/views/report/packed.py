"""Values that a page unpacks itself: JSON, compressed, as text. The page's script reads it by DecompressionStream."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from agentrl.safe_json import for_terminal

_GZIP = 16 + zlib.MAX_WBITS


class Packer:
    """Packs `{"runs": ..., "episodes": [...]}`, an episode at a time, so that their texts are never held together.

    Args: runs: the first part.
    """

    def __init__(self, runs: Any) -> None:
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
        self._parts: list[bytes] = []
        self._separator = ""
        self.size = 0
        self._write(f'{{"runs":{_json(runs)},"episodes":[')

    def add(self, episodes: Iterable[Any]) -> None:
        """Pack further episodes."""
        for episode in episodes:
            self._write(self._separator + _json(episode))
            self._separator = ","

    def text(self) -> str:
        """Everything as base64 of gzipped JSON; no character of it means anything to HTML. Ends the packing."""
        self._write("]}")
        self._parts.append(self._gzip.flush())
        return base64.b64encode(b"".join(self._parts)).decode()

    def _write(self, text: str) -> None:
        part = self._gzip.compress(text.encode("utf-8", errors="backslashreplace"))
        if part:
            self._parts.append(part)
            self.size += len(part) * 4 // 3


def _json(value: Any) -> str:
    return json.dumps(inert(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def unpacked(text: str) -> Any:
    """What a `Packer` packed."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def inert(value: Any) -> Any:
    """The value with texts that neither steer a terminal nor reorder or hide what follows; infinities become None."""
    if isinstance(value, str):
        return for_terminal(value)
    if isinstance(value, Mapping):
        return {for_terminal(str(name)): inert(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [inert(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, with a note of how many are left out of its middle."""
    if len(text) <= most:
        return text
    head = most * 3 // 4
    left_out = len(text) - most
    return (
        f"{text[:head]}\n[… {left_out:,} characters are left out of this page …]\n{text[len(text) - (most - head) :]}"
    )
