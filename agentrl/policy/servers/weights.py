"""Weights as folders that a server loads: written aside, proved, renamed. Owns their names and removal."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from agentrl.errors import StoreError
from agentrl.policy import adapters
from agentrl.policy.servers.contents import save_adapters, save_model
from agentrl.policy.servers.probe import Probe

_PARTIAL = ".writing-"
_KEPT = 2
_NAME = re.compile(r"v\d{6,}-(?P<run>[0-9a-f]{8})[0-9a-f]{6}")


@dataclass(frozen=True, eq=False)
class Published:
    """Weights that servers are to sample with.

    Attributes:
        version: their number.
        folder: where they are; its name says which weights a server has.
        probe: what the model itself gives for the text that servers are compared with.
        are_adapters: whether the folder holds adapters alone, for the model that a server was started with.
        readers: addresses of the servers that are loading it.
    """

    version: int
    folder: Path
    probe: Probe
    are_adapters: bool = False
    readers: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Differs between runs, and between a run and itself resumed."""
        return self.folder.name

    def is_of_another_run(self, name: str) -> bool:
        """Whether a name that a server says is one that another run gave it."""
        theirs = _run_of(name)
        return theirs is not None and theirs != _run_of(self.name)

    def is_older(self, name: str) -> bool:
        """Whether a name that a server says is one that this run gave it before."""
        return name != self.name and _run_of(name) == _run_of(self.name)


def _run_of(name: str) -> str | None:
    """Which run gave a server the weights of this name; None if no run did."""
    found = _NAME.fullmatch(name)
    return None if found is None else found["run"]


class WeightFolders:
    """Folders of one sampler, in a folder that it makes.

    Args:
        root: the folder; servers read it under the same path.
        adapters_alone: write the adapters of a model that has some, and not the model with them.
    """

    def __init__(self, root: Path, *, adapters_alone: bool = False) -> None:
        self.root, self._adapters_alone = root.absolute(), adapters_alone
        self._run = secrets.token_hex(4)
        self._written: list[Published] = []

    def publish(self, model: Any, tokenizer: Any, version: int, probe: Sequence[int]) -> Published:
        """Write a model as a folder that appears whole, and remove those that no server needs any more.

        Args: probe: ids of the text whose log-probabilities are compared.
        Raises: ModelError if the folder does not hold the model; StoreError if it cannot be written.
        """
        name = f"v{version:06d}-{self._run}{secrets.token_hex(3)}"
        partial, folder = self.root / f"{_PARTIAL}{name}", self.root / name
        are_adapters = self._adapters_alone and adapters.has_adapters(model)
        try:
            partial.mkdir(parents=True)
            if are_adapters:
                save_adapters(partial, model)
            else:
                save_model(partial, model, tokenizer)
            _to_disk(partial)
            partial.rename(folder)
            _sync(self.root)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StoreError(f"cannot write weights for the servers to {folder}: {error}; free space there") from error
        published = Published(version, folder, Probe.of(model, probe), are_adapters)
        self._written.append(published)
        self._remove_old()
        return published

    def _remove_old(self) -> None:
        """Remove all but the newest folders; one that a server reads is removed later."""
        for old in self._written[:-_KEPT]:
            if not old.readers:
                shutil.rmtree(old.folder, ignore_errors=True)
                self._written.remove(old)

    def keep(self) -> None:
        """Leave what was written so far where it is."""
        self._written.clear()

    def remove(self) -> None:
        """Remove what was written, and the root if nothing else is in it."""
        for published in self._written:
            shutil.rmtree(published.folder, ignore_errors=True)
        self._written.clear()
        with suppress(OSError):
            self.root.rmdir()


def _to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
