"""What there is to look at: run folders, benchmarks and single stores under the folders that the user named.

Owns their ids: a request names a source by its id alone, never by a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from agentrl.errors import ConfigError

Kind = Literal["training", "benchmark", "store"]
MOST_SOURCES = 500
_MOST_DEPTH = 6
_STORE, _METRICS = "trajectories.jsonl", "metrics.jsonl"
# Folders of a run in which there is no other run, and which may hold thousands of files.
_PRUNED = frozenset({"checkpoints", "model", "tensorboard", "stage_ends", "reward_models", "node_modules"})


@dataclass(frozen=True)
class Source:
    """One store, or a run that has none yet.

    Attributes:
        id: made of the path; equal in every call.
        name: the path below the folder that was named.
        kind: `training` has metrics; a `store` is a file alone.
        store: the trajectories; may not exist yet.
        metrics: of a training run.
    """

    id: str
    name: str
    kind: Kind
    store: Path
    metrics: Path | None = None

    @property
    def folder(self) -> Path:
        """Where its other files are."""
        return self.store.parent

    @property
    def summary(self) -> Path:
        """Its summary; a store alone has none."""
        return self.folder / "summary.json"


@lru_cache(maxsize=2 * MOST_SOURCES)
def said_by(summary: Path, changed: int) -> tuple[str, str]:
    """The state and the policy that a summary.json names; empty where it does not.

    Args: changed: when it was written; 0 where there is none.
    """
    try:
        found = json.loads(summary.read_bytes()) if changed else {}
    except (OSError, ValueError, RecursionError):
        found = {}
    if not isinstance(found, dict) or not found:
        return "unfinished", ""
    state, policy = found.get("status", "finished"), found.get("policy")
    return str(state), policy if isinstance(policy, str) else ""


def check_places(places: Sequence[Path]) -> None:
    """Refuse a place that is neither a folder nor a file. Raises: ConfigError."""
    for place in places:
        if not place.is_dir() and not is_file(place):
            raise ConfigError(f"there is no {place}: give a folder of runs, a run folder or a trajectories.jsonl")


def find_sources(places: Sequence[Path]) -> list[Source]:
    """Every source under the places, each once, in the order of their names; at most `MOST_SOURCES`."""
    found: dict[str, Source] = {}
    for place in places:
        if is_file(place):
            source = _source(place, place.name, "store")
            found.setdefault(source.id, source)
            continue
        for source in _below(place):
            if len(found) >= MOST_SOURCES:
                break
            found.setdefault(source.id, source)
    return list(found.values())


def _below(place: Path) -> Iterator[Source]:
    for folder, names, files in os.walk(place):
        path = Path(folder)
        depth = len(path.relative_to(place).parts)
        names[:] = sorted(n for n in names if n not in _PRUNED and not n.startswith(".")) if depth < _MOST_DEPTH else []
        name = str(path.relative_to(place)) if depth else path.resolve().name
        if "config.toml" in files and _METRICS in files and is_file(path / _METRICS):
            yield _source(path / _STORE, name, "training", path / _METRICS)
        elif _STORE in files and is_file(path / _STORE):
            yield _source(path / _STORE, name, "benchmark" if "summary.json" in files else "store")


def _source(store: Path, name: str, kind: Kind, metrics: Path | None = None) -> Source:
    digest = hashlib.blake2b(os.fsencode(store.resolve()), digest_size=6).hexdigest()
    return Source(digest, name, kind, store, metrics)


def is_file(path: Path) -> bool:
    """Whether this is a regular file: a pipe would make its reader wait."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
