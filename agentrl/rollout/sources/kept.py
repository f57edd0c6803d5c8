"""Demonstrations that are kept, so that runs of the same environment and seed play them once. Owns their folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.json_lines import canonical
from agentrl.rollout.new_folder import new_folder
from agentrl.rollout.sources.base import Source
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import EnvRef, Labels, Task, TrajectoryGroup


def demonstrations_identity(
    env: EnvRef, tasks: Sequence[Task], shares: Mapping[str, float], count: int, seed: int
) -> dict[str, Any]:
    """All that demonstrations are a function of, as JSON values; the environment's version is part of it."""
    marks = canonical([(task.id, task.fingerprint) for task in tasks])
    return {
        "env": asdict(env),
        "tasks": hashlib.blake2b(marks, digest_size=16).hexdigest(),
        "demonstrators": dict(shares),
        "num_episodes": count,
        "seed": seed,
    }


async def kept(
    folder: str | Path, identity: Mapping[str, Any], source: Source, count: int, labels: Labels
) -> list[TrajectoryGroup]:
    """The demonstrations of an identity: those in the folder, or those of the source, which are then kept there.

    Args:
        folder: holds a folder for each identity.
        identity: of `demonstrations_identity`.
        source: of groups of one episode; asked only if there are none yet.
        count: how many.
        labels: of the episodes.
    Raises: StoreError if the folder cannot be written, or what is kept is not whole.
    """
    place = _place(folder, identity)
    if _is_missing(place):
        _keep(place, identity, await source.take(count))
    episodes = list(TrajectoryStore(place / "trajectories.jsonl"))
    if len(episodes) != count:
        raise StoreError(f"{place} holds {len(episodes)} of {count} demonstrations: remove it to play them again")
    return [TrajectoryGroup(e.group_id, [replace(e, labels=replace(labels, mode="demonstration"))]) for e in episodes]


def _place(folder: str | Path, identity: Mapping[str, Any]) -> Path:
    return Path(folder).expanduser() / hashlib.blake2b(canonical(identity), digest_size=8).hexdigest()


def _keep(place: Path, identity: Mapping[str, Any], groups: Sequence[TrajectoryGroup]) -> None:
    try:
        with new_folder(place) as partial, TrajectoryStore(partial / "trajectories.jsonl") as store:
            write_summary(partial / "identity.json", identity)
            for group in groups:
                store.append(group.trajectories[-1])
    except ConfigError:
        if _is_missing(place):
            raise  # else another run was faster, with the same demonstrations


def _is_missing(place: Path) -> bool:
    return not (place / "trajectories.jsonl").is_file()
