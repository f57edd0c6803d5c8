"""Values that a page unpacks itself: JSON, compressed, as text. The page's script reads it by DecompressionStream."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

from agentrl.safe_json import for_terminal


def packed(value: Any) -> str:
    """A value as base64 of gzipped JSON; no character of it means anything to HTML."""
    text = json.dumps(inert(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", errors="backslashreplace"), 6, mtime=0)).decode()


def unpacked(text: str) -> Any:
    """What `packed` packed."""
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
