"""A cache that is bounded in bytes: the values that were not used for longest leave first. The user measures values."""

from __future__ import annotations

from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
ENTRY_BYTES = 200
"""About what an entry takes in addition to its key and value."""


class ByteCache(Generic[K, V]):
    """Values by key, at most `max_bytes` of them together. Any thread may use it.

    Args: max_bytes: of keys, values and `ENTRY_BYTES` for each entry. A larger value is not kept at all.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._entries: dict[K, tuple[V, int]] = {}  # the one that was not used for longest is first
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value of a key, now the last to leave; None where there is none."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return None
            self._entries[key] = entry
            return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value, in place of an earlier one of the key. Args: size: bytes of key and value."""
        size += ENTRY_BYTES
        with self._lock:
            self._remove(key)
            if size > self.max_bytes:
                return
            self._entries[key] = (value, size)
            self.used_bytes += size
            while self.used_bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._entries.clear()
            self.used_bytes = 0

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry[1]
