"""The lines of a cassette's file, by key. Owns where each one stands; memory holds those that were used last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from agentrl.byte_cache import ByteCache
from agentrl.errors import EnvFault

K = TypeVar("K", bound=Hashable)
KEPT_BYTES = 32_000_000
"""Of the entries of one tape that stay in memory, as they are written."""


class Tape:
    """The newest entry of each key in a file of JSON lines, which only grows.

    About 150 bytes for each key stay in memory, and at most `KEPT_BYTES` of entries.

    Args:
        path: of the file; it need not exist.
        key: of an entry.
        checked: called with each line's number and text; returns its entry. Raises what the cassette says of bad lines.
        mend: remove an incomplete last line, which a crash left, so that the next line does not join it.
    """

    def __init__(
        self, path: Path, key: Callable[[Any], Hashable], checked: Callable[[int, bytes], Any], *, mend: bool
    ) -> None:
        self.path, self._key = path, key
        self._places: dict[bytes, tuple[int, int]] = {}
        self._kept = ByteCache[bytes, dict[str, Any]](KEPT_BYTES)
        if not path.exists():
            return
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    if mend:
                        os.truncate(path, offset)
                    break
                if line.strip():
                    self._places[_digest(key(checked(number, line)))] = (offset, len(line))
                offset += len(line)

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """The entry of a key; None if there is none. Raises: EnvFault if the file cannot be read any more."""
        name = _digest(key)
        place = self._places.get(name)
        if place is None:
            return None
        found = self._kept.get(name)
        if found is None:
            found = self._read(key, *place)
            self._kept.put(name, found, place[1])
        return found

    def _read(self, key: Hashable, offset: int, size: int) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                entry: dict[str, Any] = json.loads(file.read(size))
                entry.setdefault("after", "")
            if self._key(entry) != key:
                raise ValueError("another entry stands there")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise EnvFault(f"cassette {self.path} was changed while it was in use: {error}", who="host") from error
        return entry

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry, mostly with a single write, so that processes that share the file do not mix their lines.

        Raises: EnvFault if it cannot be written.
        """
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                _write(handle, line)
                end = os.lseek(handle, 0, os.SEEK_CUR)
            finally:
                os.close(handle)
        except OSError as error:
            raise EnvFault(f"cassette {self.path} cannot be written: {error}", who="host") from error
        name = _digest(self._key(entry))
        self._places[name] = (end - len(line), len(line))
        self._kept.put(name, entry, len(line))


def _digest(key: Hashable) -> bytes:
    return hashlib.blake2b(repr(key).encode(errors="surrogatepass"), digest_size=16).digest()


def _write(handle: int, line: bytes) -> None:
    """Write a line, or nothing of it where the disk is full: the next line would join what is left of it."""
    before, done = os.fstat(handle).st_size, 0
    try:
        while done < len(line):
            done += os.write(handle, line[done:])
    except OSError:
        if os.fstat(handle).st_size == before + done:  # nobody else has written
            os.ftruncate(handle, before)
        raise
