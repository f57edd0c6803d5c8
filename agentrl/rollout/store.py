"""The trajectory store: an append-only JSONL file, and a run's `summary.json`.

Owns files and their failures; the JSON form of a trajectory belongs to `agentrl.rollout.records`.
One process writes; any number may read at the same time.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from agentrl.errors import StoreError
from agentrl.rollout.json_lines import decode_line, encode_exact_line, encode_line
from agentrl.rollout.records import FormatError, needs_exact_numbers, trajectory_from_json, trajectory_record
from agentrl.rollout.tool_definitions import KnownTools, WrittenTools
from agentrl.trajectory import Status, Trajectory

_BLOCK_BYTES = 1 << 16


class TrajectoryStore:
    """Trajectories on disk, one a line, in the order in which they ended.

    The file is opened for writing at the first `append`. A line that a crash left half-written is
    cut off then; until then readers skip it. When `append` returns, the operating system has the line, so that
    it survives a crash of this process. After `sync` it also survives a power failure. Definitions of tools stand in
    the first line that has them; later lines name them.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._place = self.path.absolute()  # an author's code may change the working directory
        self._file: int | None = None
        self._size = 0
        self._written = WrittenTools()

    @property
    def position(self) -> int:
        """Bytes of whole lines; `rewind` goes back to it."""
        if self._file is None and self._place.exists():
            with self._place.open("rb") as file:
                return _whole_bytes(file)
        return self._size

    def append(self, trajectory: Trajectory) -> None:
        """Add one trajectory.

        Values that are not JSON, such as arrays in `info`, are stored as `plain_json` says.

        Raises: StoreError if the disk is full or the file cannot be written (what was there before stays whole).
        """
        record = trajectory_record(trajectory)
        self._written.name_in(record)
        line = encode_line(record)
        # NaN and infinity have become null. The one null of most lines is that of `fork`.
        if line.count(b"null") > (trajectory.fork is None) and needs_exact_numbers(record):
            line = encode_exact_line(record)
        self._write(line)
        self._written.written(record)

    def rewind(self, position: int) -> None:
        """Cut off what was appended after `position`: a resumed run repeats those episodes.

        Raises: StoreError if the store is shorter than that.
        """
        file = self._open()
        if position > self._size:
            raise StoreError(
                f"{self.path} ends at byte {self._size}, but the checkpoint was made at byte {position}: "
                "the store was cut or replaced; restore it, or resume with a new folder"
            )
        os.ftruncate(file, position)
        self._size = position
        self._written.forget()

    def read(
        self, *, stage: str | None = None, group_id: str | None = None, status: Status | None = None
    ) -> Iterator[Trajectory]:
        """The stored trajectories, lazily, discarded attempts too.

        Args:
            stage: only those of the stage of this name.
            group_id, status: only those.
        Raises: StoreError that names the line, if one in the middle is broken or one is of another format.
        """
        return (trajectory for _, trajectory in self.numbered(stage=stage, group_id=group_id, status=status))

    def numbered(
        self,
        *,
        stage: str | None = None,
        group_id: str | None = None,
        status: Status | None = None,
        lines: Container[int] | None = None,
    ) -> Iterator[tuple[int, Trajectory]]:
        """As `read`, with the number of each trajectory's line, from 1.

        Args: lines: only those of these numbers. The other lines are not decoded, which takes a tenth of the time.
        """
        known = KnownTools(self._place)
        for number, record in self.records(lines=lines):
            known.note(record)
            if group_id is not None and record.get("group_id") != group_id:
                continue
            if stage is not None and record.get("labels", {}).get("stage") != stage:
                continue
            try:
                trajectory = trajectory_from_json(record, known.of)
            except FormatError as error:
                raise StoreError(f"{self.path}, line {number}: {error}") from None
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise self._broken(number, f"is no trajectory: {type(error).__name__}: {error}") from error
            if status is None or trajectory.status == status:
                yield number, trajectory

    def __iter__(self) -> Iterator[Trajectory]:
        return self.read()

    def records(self, *, lines: Container[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers (from 1) and raw records, lazily. Raises: StoreError on a broken line in the middle.

        Args: lines: only those of these numbers.
        """
        try:
            with self._place.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if lines is not None and number not in lines:
                        continue
                    record = _decode(line)
                    if record is not None:
                        yield number, record
                    elif line.endswith(b"\n"):
                        raise self._broken(number, "is not a JSON object")
        except FileNotFoundError:
            raise StoreError(f"there is no store at {self.path}; give the path of a trajectories.jsonl") from None

    def _broken(self, number: int, what: str) -> StoreError:
        return StoreError(
            f"{self.path}, line {number}: {what}. Delete that line in a copy of the file to read the "
            "others; later lines whose tools that line defined cannot be read then"
        )

    def sync(self) -> None:
        """Force everything that was appended to the disk."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Stop writing; reading and further appends still work."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._written.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        if self._file is not None:
            return self._file
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}; give a folder you may write to") from error
        with self._place.open("rb") as file:
            self._size = _whole_bytes(file)
        if os.fstat(self._file).st_size > self._size:
            self._repair_tail()
        return self._file

    def _repair_tail(self) -> None:
        """Add the newline that a complete last line lacks; cut off an incomplete one."""
        assert self._file is not None
        with self._place.open("rb") as file:
            file.seek(self._size)
            tail = file.read()
        if _decode(tail) is not None:
            self._size += len(tail)
            self._write(b"\n")
        else:
            os.ftruncate(self._file, self._size)

    def _write(self, line: bytes) -> None:
        """Write a whole line or nothing."""
        file = self._open()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError as error:
            os.ftruncate(file, self._size)
            raise StoreError(_cannot_write(self.path, error)) from error
        self._size += len(line)


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk is full: cannot write {path} ({error.strerror}). What was written before is whole; "
            "free space on that disk, then resume the run"
        )
    return f"cannot write {path}: {error.strerror}. What was written before is whole; fix that, then resume the run"


def _decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None if it is not a JSON object."""
    try:
        record = decode_line(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _whole_bytes(file: BinaryIO) -> int:
    """Bytes up to the last newline, found from the end."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _indented(line: bytes) -> bytes:
    try:
        return msgspec.json.format(line, indent=2)
    except msgspec.DecodeError:  # a lone surrogate, or very deep nesting
        return json.dumps(decode_line(line), indent=2).encode()


def write_summary(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step: readers see the old file or the new one, also after a crash. NaN becomes null.

    Raises: StoreError if the disk is full; the old file stays.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = _indented(encode_line(summary)) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(_cannot_write(path, error)) from error
