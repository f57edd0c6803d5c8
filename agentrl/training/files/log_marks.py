"""Marks of a run's logs: how long each was at a checkpoint, and what it held. Owns no file's name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentrl.errors import CheckpointError, StoreError

_CHUNK = 1 << 20


class LogMarks:
    """Marks append-only files at a checkpoint, and compares them with a mark when a run goes on.

    Args: folder: that the files are in; a mark names them relative to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashed: dict[str, tuple[int, Any]] = {}

    def mark(self, logs: Iterable[Path]) -> dict[str, dict[str, Any]]:
        """The size and SHA-256 of each log that exists. Only bytes that were added since the last mark are read.

        Raises: StoreError if a log became shorter under the run.
        """
        return {self._name(log): self._marked(log) for log in logs if log.is_file()}

    def _marked(self, log: Path) -> dict[str, Any]:
        done, digest = self._hashed.get(self._name(log), (0, hashlib.sha256()))
        size = log.stat().st_size
        if size < done:
            raise StoreError(
                f"{log} had {done} bytes and has {size}: something else writes to it. The last checkpoint still holds; "
                f"put the file back and continue with `agentrl train --resume {self._folder}`"
            )
        _read_into(digest, log, done, size)
        self._hashed[self._name(log)] = size, digest
        return {"bytes": size, "sha256": digest.hexdigest()}

    def check(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare each log, up to its marked length, with its mark. Changes nothing.

        Raises: CheckpointError that names the file, what is wrong with it, and what to do.
        """
        for name, mark in marks.items():
            log = self._folder / name
            if not log.is_file():
                raise self._refusal(log, "is missing")
            size = log.stat().st_size
            if size < mark["bytes"]:
                raise self._refusal(log, f"has {size} bytes, and the run had written {mark['bytes']}")
            digest = hashlib.sha256()
            _read_into(digest, log, 0, mark["bytes"])
            if digest.hexdigest() != mark["sha256"]:
                raise self._refusal(log, "was edited, or is of another run")
            self._hashed[name] = mark["bytes"], digest

    def _refusal(self, log: Path, what: str) -> CheckpointError:
        return CheckpointError(
            f"{log} {what}, so the records of this run cannot be continued. Put the file back as the run left it and "
            "resume again, or start a new run with model.path set to the newest checkpoint in "
            f"{self._folder / 'checkpoints'}"
        )

    def _name(self, log: Path) -> str:
        return log.relative_to(self._folder).as_posix()


def cut(log: Path, size: int) -> None:
    """Shorten a log to a size. A log that is not longer stays as it is. Raises: StoreError if it cannot be written."""
    if log.is_file() and log.stat().st_size > size:
        try:
            os.truncate(log, size)
        except OSError as error:
            raise StoreError(f"cannot write {log}: {error}; resume in a folder that can be written") from error


def _read_into(digest: Any, log: Path, start: int, end: int) -> None:
    with log.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
