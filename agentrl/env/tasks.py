"""Tasks of an environment: named splits that are disjoint, made once from a seed.

Owns splits and their order; what a task's data means belongs to the environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.env.task_files import TaskFile
from agentrl.errors import TaskError, did_you_mean
from agentrl.trajectory import Task

_encode = json.JSONEncoder(sort_keys=True).encode
TaskMaker = Callable[[np.random.Generator], Mapping[str, Any]]


class Tasks:
    """Disjoint splits of tasks, by default `train` and `eval`.

    Tasks are generated on first use, so importing an environment stays cheap.
    """

    def __init__(self, splits: Callable[[], Mapping[str, Sequence[Task]]]) -> None:
        self._make = splits
        self._are_disjoint = False
        self._splits: dict[str, tuple[Task, ...]] | None = None
        self._by_id: dict[str, Task] = {}

    @classmethod
    def of(cls, **splits: Sequence[Mapping[str, Any]]) -> Tasks:
        """Tasks from lists of data: `Tasks.of(train=[{...}], eval=[{...}])`."""
        return cls(lambda: {name: _number(name, items) for name, items in splits.items()})

    @classmethod
    def generate(cls, make: TaskMaker, *, seed: int = 0, **sizes: int) -> Tasks:
        """Tasks drawn from a generator, without repeats within or between splits.

        Args:
            make: takes a numpy generator, returns JSON-serialisable data of one task.
            seed: of the numpy generator.
            sizes: tasks per split, by default `train=1000, eval=200`.
        Raises: TaskError at first use if `make` cannot produce that many different tasks.
        """
        wanted = sizes or {"train": 1000, "eval": 200}
        made = cls(lambda: _generate(make, seed, wanted))
        made._are_disjoint = True  # `_generate` leaves out what it drew before
        return made

    @classmethod
    def from_file(cls, path: str | Path, *, id: str = "id", split: str = "split", eval_share: float = 0.2) -> Tasks:
        """Tasks of a file: `.jsonl` (an object a line), `.json` (a list), `.csv` or `.tsv` (cells are text).

        A task's id and split are fields of it, its other fields are its data. Without ids, a hash of the data is the
        id; without splits, a hash of the id puts a share of the tasks into `eval`, the same ones when tasks are added.

        Args:
            path: a relative one starts from the folder of the Python file that calls this, else from the current one.
            id, split: names of these fields.
            eval_share: of the tasks, where no task names its split.
        Raises: TaskError, at first use, that names the line of a mistake; now, if there is no such file.
        """
        place = Path(path)
        if not place.is_absolute():
            beside = Path(sys._getframe(1).f_globals.get("__file__") or "").parent / place
            place = beside if beside.is_file() else place
        if not place.is_file():
            raise TaskError(f"there is no file {str(place)!r}, in {Path.cwd()} or next to the environment's file")
        file = TaskFile(place.resolve(), id, split, eval_share)
        return cls(file.splits)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._load())

    def split(self, name: str) -> tuple[Task, ...]:
        """The tasks of a split, in a fixed order. Raises: TaskError if there is none."""
        splits = self._load()
        if name not in splits:
            raise TaskError(f"no split {name!r}.{did_you_mean(name, splits)}")
        return splits[name]

    def __getitem__(self, task_id: str) -> Task:
        self._load()
        if task_id not in self._by_id:
            raise TaskError(f"no task {task_id!r}.{did_you_mean(task_id, list(self._by_id)[:50])}")
        return self._by_id[task_id]

    def made_again(self) -> Tasks:
        """The same tasks, made a second time; those of an unseeded generator differ."""
        again = Tasks(self._make)
        again._are_disjoint = self._are_disjoint
        return again

    def _load(self) -> dict[str, tuple[Task, ...]]:
        if self._splits is None:
            splits = {name: tuple(tasks) for name, tasks in self._make().items()}
            self._by_id = _by_id(splits)
            if not self._are_disjoint:
                _check_disjoint(splits)
            self._splits = splits
        return self._splits


def _number(split: str, items: Sequence[Mapping[str, Any]]) -> list[Task]:
    return [Task(f"{split}-{index}", split, dict(data)) for index, data in enumerate(items)]


def _fingerprint(data: Mapping[str, Any]) -> str:
    try:
        return _encode(data)
    except TypeError as error:
        raise TaskError(f"a task's data must be plain JSON (numbers, text, lists, dicts): {error}") from error


def _generate(make: TaskMaker, seed: int, sizes: Mapping[str, int]) -> dict[str, list[Task]]:
    # All splits draw from one stream, and a task that was drawn before is left out: no split repeats another's.
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    splits: dict[str, list[Task]] = {}
    for name, size in sizes.items():
        items: list[Mapping[str, Any]] = []
        tries = 0
        while len(items) < size:
            data = make(rng)
            mark = _fingerprint(data)
            tries += 1
            if mark not in seen:
                seen.add(mark)
                items.append(data)
            elif tries > 100 * size + 1000:
                raise TaskError(
                    f"only {len(items)} different tasks for split {name!r} after {tries} draws, "
                    f"{size} wanted; let the generator draw more different tasks, or ask for fewer"
                )
        splits[name] = _number(name, items)
    return splits


def _by_id(splits: Mapping[str, Sequence[Task]]) -> dict[str, Task]:
    by_id: dict[str, Task] = {}
    for task in (task for tasks in splits.values() for task in tasks):
        if task.id in by_id:
            raise TaskError(f"task id {task.id!r} is used twice; ids must be unique within an environment")
        by_id[task.id] = task
    return by_id


def _check_disjoint(splits: Mapping[str, Sequence[Task]]) -> None:
    owner: dict[str, str] = {}
    for name, tasks in splits.items():
        for task in tasks:
            mark = _fingerprint(task.data)
            if owner.setdefault(mark, name) != name:
                raise TaskError(
                    f"task {task.id!r} of split {name!r} is also in split {owner[mark]!r}; "
                    "held-out tasks must not be trained on: remove it from one of them"
                )
