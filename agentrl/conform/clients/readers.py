"""Readers of files: the package that owns a format reads what we wrote. `readers.py FORMAT FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def atif(path: Path) -> dict[str, Any]:
    from atif import Trajectory

    documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = [Trajectory.model_validate(document) for document in documents]
    same = all(r.to_json_dict()["steps"] == d["steps"] for r, d in zip(found, documents, strict=True))
    return {"episodes": len(found), "problem": "" if same else "a step was changed by reading it"}


def inspect(path: Path) -> dict[str, Any]:
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(path))
    problem = "" if log.status == "success" else f"its status is {log.status}"
    return {"episodes": len(log.samples or []), "problem": problem}


def verifiers(path: Path) -> dict[str, Any]:
    import tempfile

    from verifiers.v1 import WireTrace
    from verifiers.v1.utils.trace_store import TRACES_FILE, read_episodes

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / TRACES_FILE).write_bytes(path.read_bytes())
        return {"episodes": len(read_episodes(Path(folder), WireTrace)), "problem": ""}


def harbor(path: Path) -> dict[str, Any]:
    from harbor.models.task.config import TaskConfig

    found = sorted(path.glob("*/task.toml"))
    for file in found:
        TaskConfig.model_validate_toml(file.read_text(encoding="utf-8"))
    empty = [file.parent.name for file in found if not (file.parent / "instruction.md").read_text().strip()]
    return {"episodes": len(found), "problem": f"no instruction in {', '.join(empty)}" if empty else ""}


if __name__ == "__main__":
    reader = {"atif": atif, "inspect": inspect, "verifiers": verifiers, "harbor": harbor}[sys.argv[1]]
    json.dump(reader(Path(sys.argv[2])), sys.stdout)
