"""The thread that follows the stores: it indexes what is appended, and reads again what was cut or changed.

A last line without its newline waits until it is whole. Stores are opened for reading alone.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from agentrl.viewer.index import Index
from agentrl.viewer.skim import Row, skim
from agentrl.viewer.sources import Source, find_sources

logger = logging.getLogger(__name__)
_LOOK_S = 0.1
_FIND_S, _FIND_REST = 2.0, 20
_CHUNK_BYTES = 4 << 20
_MARK_BYTES = 256
_MOST_LINE_BYTES = 256 << 20


@dataclass(frozen=True)
class Progress:
    """How far a source is read.

    Attributes:
        episodes: lines in the index.
        metrics: bytes of metrics.jsonl.
        summary: when summary.json was written, in nanoseconds; 0 where there is none.
        generation: grows when the store is read anew.
        whole: whether every whole line that was there at the last look is in the index.
    """

    episodes: int = 0
    metrics: int = 0
    summary: int = 0
    generation: int = 0
    whole: bool = False


@dataclass
class _Place:
    """Where the reader of one store stands."""

    position: int = 0
    lines: int = 0
    generation: int = 0
    seen: tuple[int, int, int] = (0, 0, 0)  # inode, size, time of change, as of the last look
    head: bytes = b""
    tail: bytes = b""

    def restart(self) -> None:
        """Begin at the first line again."""
        self.position, self.lines, self.generation = 0, 0, self.generation + 1
        self.seen, self.head, self.tail = (0, 0, 0), b"", b""


class Watcher:
    """Follows every source under the places; a context manager that starts and ends the thread.

    Args:
        index: is written here alone.
        places: folders and files.
    """

    def __init__(self, index: Index, places: Sequence[Path]) -> None:
        self.index, self.places = index, list(places)
        self.sources: dict[str, Source] = {}
        self.progress: dict[str, Progress] = {}
        self.changes = 0
        self._places: dict[str, _Place] = {}
        self._failing: dict[str, str] = {}
        self._find_at_s = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentrl-view-index", daemon=True)

    def __enter__(self) -> Self:
        self.find()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                busy = self.look()
            except Exception:  # a page that stands still says nothing; the next look may succeed
                logger.exception("the index could not be brought up to date")
                busy = False
            if not busy:
                self._ends.wait(_LOOK_S)

    def look(self) -> bool:
        """Read at most one piece of each source. Returns: whether there is more."""
        if time.monotonic() >= self._find_at_s:
            self.find()
        busy = False
        for source in list(self.sources.values()):
            if self._ends.is_set():
                return False
            try:
                busy |= self._look_at(source)
                self._failing.pop(source.id, None)
            except (OSError, sqlite3.Error) as error:  # the others go on
                self._tell(source, error)
        return busy

    def _tell(self, source: Source, error: Exception) -> None:
        """Log why a store cannot be read: once, not at every look."""
        if self._failing.get(source.id) != str(error):
            self._failing[source.id] = str(error)
            logger.warning("%s cannot be read: %s", source.store, error)

    def find(self) -> None:
        """Look for new sources."""
        began = time.monotonic()
        found = {source.id: source for source in find_sources(self.places)}
        now = time.monotonic()
        self._find_at_s = now + max(_FIND_S, _FIND_REST * (now - began))  # large trees are walked less often
        if found != self.sources:
            for gone in self.sources.keys() - found.keys():
                self.index.forget(gone)
                self._places.pop(gone, None)
                self._failing.pop(gone, None)
                self.progress.pop(gone, None)
            self.sources = found
            self.changes += 1

    def _look_at(self, source: Source) -> bool:
        place = self._places.setdefault(source.id, _Place())
        whole = self._take(source, place)
        metrics, _ = _size_and_time(source.metrics)
        _, summary = _size_and_time(source.summary if source.kind != "store" else None)
        now = Progress(place.lines, metrics, summary, place.generation, whole)
        if self.progress.get(source.id) != now:
            self.progress[source.id] = now
            self.changes += 1
        return not whole

    def _take(self, source: Source, place: _Place) -> bool:
        """Index the next piece of a store. Returns: whether its whole lines are all read."""
        try:
            if _mark(os.stat(source.store)) == place.seen:
                return True
            with source.store.open("rb") as file:
                seen = _mark(os.fstat(file.fileno()))
                if place.position and not _continues(file, place, seen):
                    self._restart(source, place)
                whole = self._read(source, place, file, seen[1])
        except FileNotFoundError:
            if place.position:
                self._restart(source, place)
            return True
        if whole:
            place.seen = seen
        return whole

    def _restart(self, source: Source, place: _Place) -> None:
        self.index.forget(source.id)
        place.restart()

    def _read(self, source: Source, place: _Place, file: BinaryIO, end: int) -> bool:
        file.seek(place.position)
        piece = file.read(min(_CHUNK_BYTES, end - place.position))
        while b"\n" not in piece and place.position + len(piece) < end and len(piece) < _MOST_LINE_BYTES:
            more = file.read(min(len(piece), end - place.position - len(piece)))
            if not more:  # the store was cut since it was opened
                break
            piece += more
        cut = piece.rfind(b"\n") + 1
        if cut:
            self._index(source, place, piece[:cut])
        # What is left is a torn line, or one that is too long to be shown: both wait.
        return not cut or place.position + len(piece) - cut >= end

    def _index(self, source: Source, place: _Place, lines: bytes) -> None:
        entries: list[tuple[int, int, int, Row]] = []
        offset, number = place.position, place.lines
        for line in lines.splitlines(keepends=True) if b"\r" not in lines else _lines(lines):
            number += 1
            entries.append((number, offset, len(line), skim(line)))
            offset += len(line)
        self.index.add(source.id, entries)
        if not place.head:
            place.head = lines[:_MARK_BYTES]
        place.tail = (place.tail + lines[-_MARK_BYTES:])[-_MARK_BYTES:]
        place.position, place.lines = offset, number


def _lines(text: bytes) -> list[bytes]:
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def _continues(file: BinaryIO, place: _Place, seen: tuple[int, int, int]) -> bool:
    """Whether what was read before still stands in the file."""
    inode, size, _ = place.seen
    if inode and (seen[0] != inode or seen[1] < place.position or (seen[1] == size and seen != place.seen)):
        return False
    file.seek(0)
    if file.read(len(place.head)) != place.head:
        return False
    file.seek(place.position - len(place.tail))
    return file.read(len(place.tail)) == place.tail


def _mark(found: os.stat_result) -> tuple[int, int, int]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _size_and_time(path: Path | None) -> tuple[int, int]:
    """Bytes of a file, and when it was changed; zeros where it does not exist."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        found = None
    return (0, 0) if found is None else (found.st_size, found.st_mtime_ns)
