"""A folder that appears whole or not at all, and never over something else. Owns no file in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.lock import entries_of

_SHOWN = 3


def check_new(path: str | Path) -> None:
    """Refuse a path at which there is something. Raises: ConfigError that names what is there."""
    path = Path(path)
    if os.path.lexists(path) and not path.is_dir():
        raise ConfigError(f"{path} is not a folder: choose another --out")
    found = entries_of(path)
    if found:
        shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise ConfigError(
            f"{path} holds something already ({shown}), and nothing is overwritten: choose another --out, or move it "
            "aside"
        )


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder next to `path`, which gets that name when the block ends; after an error nothing is left.

    Raises: ConfigError if `path` is there and not empty; StoreError if it cannot be written.
    """
    path = Path(path)
    check_new(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        check_new(path)  # nobody came first
        _move(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}; free space, or choose another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    for entry in partial.iterdir():  # an empty folder of the user's, perhaps with what an operating system leaves
        entry.rename(path / entry.name)
