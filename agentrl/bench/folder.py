"""The folder of a benchmark: its lock, its records, and the refusal of a folder that holds something else."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from agentrl.bench.identity import Identity
from agentrl.errors import ConfigError
from agentrl.rollout.lock import FolderLock, is_empty
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import Trajectory

SUMMARY, TRAJECTORIES = "summary.json", "trajectories.jsonl"
SUITE = "suite.json"
"""Of the folder of a suite, which holds one of these folders for each environment."""


class BenchFolder:
    """The records on disk: those of earlier calls, and those that this call writes. A context manager.

    Args:
        out: the folder; None keeps nothing on disk.
        identity: of this benchmark; a folder with another one is refused.
    """

    def __init__(self, out: str | Path | None, identity: Identity) -> None:
        self.path = Path(out) if out is not None else None
        self.store = TrajectoryStore(self.path / TRAJECTORIES) if self.path is not None else None
        self.identity = identity
        self.started_at: str | None = None
        self._lock = FolderLock(self.path) if self.path is not None else None

    def __enter__(self) -> Self:
        """Take the folder. Raises: ConfigError if it holds something else, or another run writes into it."""
        if self._lock is None:
            return self
        self._check()  # before the lock: nothing is written into a folder of something else
        self._lock.acquire()
        try:
            self._check()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop writing and free the folder for others; safe to call twice."""
        if self.store is not None:
            self.store.close()
        if self._lock is not None:
            self._lock.release()

    def _check(self) -> None:
        """Compare the folder with this benchmark. Raises: ConfigError if it holds something else."""
        assert self.path is not None
        if is_empty(self.path):
            return
        summary = read_summary(self.path)
        former = summary["identity"]
        differing = self.identity.differences(former)
        if differing:
            raise ConfigError(
                f"{self.path} holds a benchmark with {'; '.join(differing)}: choose another folder (--out), so that "
                "results of two different things are never mixed"
            )
        self.started_at = summary.get("started_at")
        # The tasks of earlier calls stay on record, also if this call plays fewer.
        tasks = {**former["tasks"]["fingerprints"], **self.identity.tasks}
        self.identity = replace(self.identity, tasks=tasks)

    def former(self) -> list[Trajectory]:
        """Final trajectories of earlier calls, in the order in which they ended."""
        if self.store is None or not self.store.path.exists():
            return []
        return [t for t in self.store if not t.labels.superseded]

    def write(self, summary: Mapping[str, Any]) -> None:
        """Replace summary.json. Raises: StoreError if it cannot be written."""
        if self.path is not None:
            write_summary(self.path / SUMMARY, {"identity": self.identity.to_json(), **summary})


def read_summary(folder: Path, *, raw: Collection[str] = (), without: Collection[str] = ()) -> dict[str, Any]:
    """The summary of a benchmark's folder. Raises: ConfigError if there is none.

    Args:
        raw: fields that stay as they are written (`msgspec.Raw`): those of every task may be large.
        without: fields that are not read either; they are None where the summary has them.
    """
    path = folder / SUMMARY
    try:
        summary = _fields(path.read_bytes(), raw, without)
        identity = summary["identity"]
        if "identity" not in (*raw, *without):
            identity["tasks"]["fingerprints"].items()
    except (FileNotFoundError, NotADirectoryError):
        if (folder / SUITE).is_file():
            raise ConfigError(
                f"{folder} is a suite, not a benchmark: it has a folder for each environment, such as {folder}/NAME"
            ) from None
        if folder.exists():
            raise ConfigError(f"{folder} holds files, but no benchmark: choose another folder") from None
        raise ConfigError(f"there is no folder {folder}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no benchmark of this version ({type(error).__name__}: {error}): choose another folder"
        ) from None
    return summary


def _fields(text: bytes, raw: Collection[str], without: Collection[str]) -> dict[str, Any]:
    if not raw and not without:
        found: dict[str, Any] = json.loads(text)
        return found
    try:
        parts = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        wanted = {name: part for name, part in parts.items() if name not in without}
        decoded = {name: part if name in raw else msgspec.json.decode(part) for name, part in wanted.items()}
    except msgspec.DecodeError:  # half a character, which the standard library reads
        values = json.loads(text)
        decoded = {name: msgspec.Raw(json.dumps(of).encode()) if name in raw else of for name, of in values.items()}
        parts = decoded
    return {name: None if name in without else decoded[name] for name in parts}


def default_out(env_id: str, policy: str, root: str | Path = "runs") -> Path:
    """The name of a new folder for a benchmark: `runs/bench-ENV-POLICY-TIME`."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{env_id.rsplit('/', 1)[-1]}-{policy}").strip("-")[:80]
    return Path(root) / f"bench-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
