"""Writes tasks of an environment of ours as Harbor's task folders (task.toml, schema 1.4)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError
from agentrl.sandboxed.task_folder import WORKDIR, AsTaskFolder, TaskFolder
from agentrl.trajectory import EnvRef, Task

_IMAGE = "python:3.11-slim"
_SECONDS = 120.0
_TEST = """\
#!/bin/bash
mkdir -p /logs/verifier
if python3 -I /tests/check.py; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""


@dataclass(frozen=True)
class ExportedTasks:
    """What was written: one folder a task."""

    out: Path
    folders: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"out": str(self.out), "tasks": list(self.folders)}


def export_tasks(env: str | EnvRef, out: str | Path, *, split: str = "eval", limit: int | None = None) -> ExportedTasks:
    """Write tasks of an environment as Harbor's task folders.

    Args:
        env: an id or a reference; its class has `task_folder`.
        out: a new or empty folder.
        split: which tasks.
        limit: number of tasks, the first of the split.
    Raises: ConfigError if the environment's tasks cannot be written so, or if there is something in `out`.
    """
    made = registry.make(env)
    try:
        inner: Any = made.unwrapped
        known: Tasks = inner.tasks
        if not isinstance(inner, AsTaskFolder):
            raise ConfigError(
                f"the tasks of {made.ref.id if made.ref else env} cannot be written as folders: its class has no method"
                " task_folder(task), as agentrl/Terminal-v0 and agentrl/FunctionSynthesis-v0 have"
            )
        tasks = known.split(split)[:limit]
        place = _new_folder(Path(out))
        return ExportedTasks(place, tuple(_write(place, task, inner.task_folder(task), made) for task in tasks))
    finally:
        with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop in this one
            thread.submit(made.close).result()


def _new_folder(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already and not an empty folder: name a new one")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _write(out: Path, task: Task, content: TaskFolder, env: Env) -> str:
    """Write one task, complete or not at all; returns the name of its folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", task.id).strip("-.") or "task"
    folder, half = out / name, out / f".{name}.half"
    copy = "COPY files/ ./\n" if content.files else ""
    texts = {
        "task.toml": _config(task, env),
        "instruction.md": content.instruction.rstrip() + "\n",
        "environment/Dockerfile": f"FROM {_IMAGE}\nWORKDIR {WORKDIR}\n{copy}",
        "tests/test.sh": _TEST,
        "solution/solve.sh": f"#!/bin/bash\n{content.solution.rstrip()}\n",
        **{f"tests/{path}": text for path, text in content.tests.items()},
    }
    files = {path: text.encode() for path, text in texts.items()}
    files |= {f"environment/files/{path}": file for path, file in content.files.items()}
    try:
        for path, written in files.items():
            (half / path).parent.mkdir(parents=True, exist_ok=True)
            (half / path).write_bytes(written)
            if path.endswith(".sh"):
                (half / path).chmod(0o755)
        half.rename(folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise ConfigError(f"the task {task.id!r} cannot be written to {folder}: {error}") from error
    return name


def _config(task: Task, env: Env) -> str:
    ref = env.ref
    metadata: dict[str, Any] = {"task_id": task.id, "split": task.split, "fingerprint": task.fingerprint}
    if ref is not None:
        metadata |= {"agentrl_env": ref.id, "agentrl_version": ref.version}
    if task.family:
        metadata["family"] = task.family
    phases: Sequence[str] = ("verifier", "agent")
    return tomli_w.dumps(
        {
            "schema_version": "1.4",
            "metadata": metadata,
            **{phase: {"timeout_sec": _SECONDS} for phase in phases},
            "environment": {"network_mode": "no-network"},
        }
    )
