"""Tasks in a file: JSON lines, a JSON list, CSV or TSV. Owns reading, ids and splits; every mistake names its line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.errors import TaskError
from agentrl.trajectory import Task

Row = tuple[int, dict[str, Any]]
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class TaskFile:
    """A file of tasks.

    Attributes:
        path: to it.
        id: name of the field that holds a task's id; where no task has it, ids are made of the content.
        split: name of the field that holds a task's split; where no task has it, `eval_share` decides.
        eval_share: share of tasks that a hash of their id puts into `eval`; the others are in `train`.
    """

    path: Path
    id: str = "id"
    split: str = "split"
    eval_share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.eval_share < 1:
            raise TaskError(f"eval_share must be from 0 to less than 1, got {self.eval_share!r}")

    def splits(self) -> dict[str, list[Task]]:
        """The tasks of each split, in the order of the file. Raises: TaskError that names the line of a mistake."""
        rows = list(self.rows())
        if not rows:
            raise TaskError(f"{self.path} holds no task")
        ids, named = self._field(self.id, rows), self._field(self.split, rows)
        found: dict[str, list[Task]] = {}
        seen_ids: dict[str, int] = {}
        seen_contents: dict[str, int] = {}
        for (line, row), given_id, given_split in zip(rows, ids, named, strict=True):
            data = {name: value for name, value in row.items() if name not in (self.id, self.split)}
            content = Task("", data=data).fingerprint
            task_id = given_id or content
            split = given_split or ("eval" if _share(task_id) < self.eval_share else "train")
            self._check_new(line, f"the id {task_id!r}" if given_id else "the task", seen_ids, task_id)
            self._check_new(line, "the task", seen_contents, f"{split} {content}")
            found.setdefault(split, []).append(Task(task_id, split, data))
        if not any(named) and self.eval_share and "eval" not in found:
            raise TaskError(
                f"none of the {len(rows)} tasks of {self.path} falls into the split 'eval': give each task a field "
                f"{self.split!r}, or raise eval_share"
            )
        return found

    def _check_new(self, line: int, what: str, seen: dict[str, int], mark: str) -> None:
        before = seen.setdefault(mark, line)
        if before != line:
            raise TaskError(f"{self.path}, line {line}: {what} is in line {before} as well; keep one of them")

    def _field(self, name: str, rows: Sequence[Row]) -> list[str]:
        """The values of a field as text, or empty texts if no task has it. Raises: TaskError if only some have it."""
        if not any(name in row for _, row in rows):
            return [""] * len(rows)
        found = []
        for line, row in rows:
            value = row.get(name)
            if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
                given = "is missing, though other tasks have it" if name not in row else f"is {value!r}"
                raise TaskError(f"{self.path}, line {line}: the field {name!r} {given}; write a text or a whole number")
            found.append(str(value))
        return found

    def rows(self) -> Iterator[Row]:
        """Each task's line number and fields. Raises: TaskError that names the line of a mistake."""
        kind = self.path.suffix.lower()
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise TaskError(f"{self.path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise TaskError(f"{self.path}, line {line}: not UTF-8; save the file as UTF-8") from error
        if kind in (".jsonl", ".ndjson"):
            return ((n, self._object(n, line)) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        if kind == ".json":
            return self._listed(text)
        if kind in _SEPARATORS:
            return self._table(text, _SEPARATORS[kind])
        raise TaskError(f"{self.path}: the name must end in .jsonl, .json, .csv or .tsv")

    def _object(self, line: int, text: str) -> dict[str, Any]:
        value = self._parsed(line, text)
        if not isinstance(value, dict):
            raise TaskError(f"{self.path}, line {line}: a task is a JSON object, got {type(value).__name__}")
        return value

    def _parsed(self, line: int, text: str) -> Any:
        try:
            return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        except json.JSONDecodeError as error:
            place = line + error.lineno - 1
            raise TaskError(f"{self.path}, line {place}: not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            said = error if isinstance(error, ValueError) else "it is nested too deeply"
            raise TaskError(f"{self.path}, line {line}: not JSON: {said}") from None

    def _listed(self, text: str) -> Iterator[Row]:
        value = self._parsed(1, text)
        if not isinstance(value, list):
            raise TaskError(f"{self.path}: a list of tasks was expected, got {type(value).__name__}")
        for number, item in enumerate(value, 1):
            if not isinstance(item, dict):
                raise TaskError(f"{self.path}, task {number}: a task is a JSON object, got {type(item).__name__}")
            yield number, item

    def _table(self, text: str, separator: str) -> Iterator[Row]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names) or "" in names:
                raise TaskError(f"{self.path}, line 1: the columns need names that differ, got {names}")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise TaskError(f"{self.path}, line {reader.line_num}: {len(cells)} cells in {len(names)} columns")
                yield reader.line_num, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise TaskError(f"{self.path}, line {reader.line_num}: {error}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _share(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
