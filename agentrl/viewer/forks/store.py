"""Where forks are saved: a store of their own, in a folder that holds nothing else."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from agentrl.errors import ConfigError
from agentrl.rollout.lock import FolderLock, entries_of
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory

STAGE = "fork"
"""The stage of every episode in such a store."""
_STORE = "trajectories.jsonl"


class ForkStore:
    """The store in a folder, which is made and locked at the first episode.

    Args: out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._lock = FolderLock(out)
        self._store: TrajectoryStore | None = None

    def append(self, episode: Trajectory) -> Path:
        """Add one episode. Returns: the path of the store. Raises: ConfigError, as `check_out`; StoreError."""
        if self._store is None:
            check_out(self.out)
            self._lock.acquire()
            self._store = TrajectoryStore(self.out / _STORE)
        self._store.append(episode)
        self._store.sync()
        return self._store.path

    def close(self) -> None:
        """Close the store and free its folder."""
        if self._store is not None:
            self._store.close()
        self._lock.release()


def check_out(out: Path) -> None:
    """Refuse a folder for forks that is of a run, or holds something else. Raises: ConfigError."""
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / "config.toml").exists() and (folder / "metrics.jsonl").exists():
            raise ConfigError(f"{out} lies in the run {folder}, and forks are never saved into a run: choose --forks")
    others = [name for name in entries_of(out) if name != _STORE]
    if others:
        raise ConfigError(f"{out} holds something else ({', '.join(others[:3])}): choose another --forks")
    store = TrajectoryStore(out / _STORE)
    first = [record for _, record in islice(store.records(), 1)] if store.path.exists() else []
    if any(record.get("labels", {}).get("stage") != STAGE for record in first):
        raise ConfigError(f"{out} holds a store of something else than forks: choose another --forks")
