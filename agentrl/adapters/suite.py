"""What adapters of third-party suites share: the user's package, and tools that come as a name and a JSON schema.

Owns no suite. Nothing of a suite is imported before an environment of it is made.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentrl.env.blame import culprit
from agentrl.env.results import to_text
from agentrl.env.tasks import Tasks
from agentrl.errors import PackageMissing, ToolError
from agentrl.tool_schema import Tool
from agentrl.trajectory import Task

_SHARE = 5  # where a generator has few tasks, one in five is held out
_TRIED = 4  # indices for each task that is wanted


def from_package(module: str, install: str) -> Any:
    """A module of an installed third-party package.

    Args:
        module: its name, such as `reasoning_gym`.
        install: the command that installs the package.
    Raises: PackageMissing with that command, if the module or one that it imports is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        lacks = f"which needs the module {error.name!r}, " if error.name and error.name not in module else ""
        raise PackageMissing(f"this environment needs {module!r}, {lacks}which is not installed: {install}") from error


class _AnyArguments(BaseModel):
    """Arguments that only the suite checks."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class SuiteTool(Tool):
    """A tool of a suite. The suite itself checks the arguments and says what is wrong with them.

    Attributes:
        parameters: the JSON schema of the arguments, as the model sees it.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def schema(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def convert(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"given": given}


def suite_tool(
    name: str, description: str, parameters: Mapping[str, Any], run: Callable[[Any, str, dict[str, Any]], Any]
) -> SuiteTool:
    """A tool that calls `run(env, name, arguments)`; whatever that raises is an error that the model reads.

    An exception of a suite's tool is a part of its simulated world: it follows from the arguments alone. `run` is a
    function of the class: a method of an instance would act on that instance in each of its forks, too.
    """

    def function(self: Any, given: dict[str, Any]) -> str:
        try:
            return to_text(run(self, name, given))
        except ToolError:
            raise
        except Exception as error:
            pass_on_host_fault(error)
            raise ToolError(f"{type(error).__name__}: {error}") from error

    return SuiteTool(name, description, _AnyArguments, function, parameters=parameters)


def pass_on_host_fault(error: Exception) -> None:
    """Raise an exception again that says that this machine failed, such as one without memory or disk.

    Code of a suite raises on what an agent did, and that is a verdict. A fault of the machine is none.
    """
    if culprit(error) == "host":
        raise error


@dataclass(frozen=True)
class Seeded:
    """Tasks of a generator that take an index each, in splits that share no content.

    Attributes:
        make: id without the split, data and content of the task with an index of a split, `train` or `eval`.
        most: indices that are tried in a split, at most.
    """

    make: Callable[[str, int], tuple[str, Mapping[str, Any], str]]
    most: int = 10**9

    def splits(self, train: int, held_out: int) -> dict[str, list[Task]]:
        """Up to that many tasks each. A generator that has few keeps a fifth of those for `eval`, and one at least."""
        kept = self._split("eval", held_out, {})
        if train and len(kept) < held_out:
            kept = dict(list(kept.items())[: -(-len(kept) // _SHARE)])
        return {"train": list(self._split("train", train, kept).values()), "eval": list(kept.values())}

    def _split(self, split: str, size: int, seen: Mapping[str, Task]) -> dict[str, Task]:
        """The first tasks of a split whose content is new, by content."""
        made: dict[str, Task] = {}
        for index in range(min(_TRIED * size, self.most)):
            if len(made) == size:
                break
            id, data, content = self.make(split, index)
            if content not in seen and content not in made:
                made[content] = Task(id, split, data)
        return made


def seeded_tasks(generators: Sequence[Seeded], train: int, held_out: int) -> Tasks:
    """The tasks of some generators as those of one environment; none is made before they are asked for.

    Args: train, held_out: tasks of each generator in the splits `train` and `eval`, at most.
    """

    def splits() -> dict[str, list[Task]]:
        parts = [generator.splits(train, held_out) for generator in generators]
        return {split: [task for part in parts for task in part[split]] for split in ("train", "eval")}

    return Tasks(splits)


def splits_of(items: Iterable[tuple[str, Mapping[str, Any]]], train_share: float = 0.0) -> Tasks:
    """A suite's own tasks: all in the split `eval`, or a share of them in `train`, chosen by a hash of the id.

    Args:
        items: id and data of each task.
        train_share: a suite without a training split has none of its own; this takes it from its tasks.
    Raises: ValueError if the share is not from 0 up to below 1.
    """
    if not 0.0 <= train_share < 1.0:
        raise ValueError(f"train_share must be from 0 up to below 1, got {train_share!r}")

    def splits() -> dict[str, list[Task]]:
        found: dict[str, list[Task]] = {"train": [], "eval": []} if train_share else {"eval": []}
        for id, data in items:
            split = "train" if zlib.crc32(id.encode()) / 2**32 < train_share else "eval"
            found[split].append(Task(id, split, data))
        return found

    return Tasks(splits)
