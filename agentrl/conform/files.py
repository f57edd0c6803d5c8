"""The doors that are files: task folders for Harbor, and records that other systems read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentrl.adapters.harbor.export import export_tasks
from agentrl.conform.doors import Job, run_client
from agentrl.conform.report import Door
from agentrl.errors import ConfigError
from agentrl.rollout.interchange.files import Format, export_episodes
from agentrl.rollout.store import TrajectoryStore

_TASKS = 3


def harbor(job: Job) -> Door:
    """Task folders that Harbor's `TaskConfig` reads."""
    out = job.folder / "harbor"
    try:
        export_tasks(job.ref, out, split=job.episodes[0].task.split, limit=_TASKS)
    except ConfigError as error:
        if "cannot be written as folders" not in str(error):
            raise
        return Door("harbor", "does not apply", "its tasks are no folders: the class has no task_folder(task)")
    return _read(job, "harbor", "harbor", out, "task folders read by TaskConfig")


def records(name: Format, package: str) -> Callable[[Job], Door]:
    """Records of the episodes, read by the package that owns their form."""

    def door(job: Job) -> Door:
        store = job.folder / "trajectories.jsonl"
        if not store.exists():
            with TrajectoryStore(store) as written:
                for episode in job.episodes:
                    written.append(episode)
        out = job.folder / f"{name}.{'json' if name == 'inspect' else 'jsonl'}"
        export_episodes(store, out, name, model="conform")
        return _read(job, name, package, out, "episodes read")

    return door


def _read(job: Job, name: str, package: str, path: Path, what: str) -> Door:
    seen = run_client(job, package, "readers.py", name, str(path))
    if seen["problem"]:
        return Door(name, "failed", seen["problem"])
    return Door(name, "green", f"{seen['episodes']} {what}")
