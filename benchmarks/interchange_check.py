"""Reads an exported file with the package that owns its format, and says what the package saw in it.

    python benchmarks/interchange_check.py inspect log.json         (pip install inspect_ai==0.3.285)
    python benchmarks/interchange_check.py atif episodes.jsonl      (pip install atif==1.8.0)
    python benchmarks/interchange_check.py verifiers traces.jsonl   (pip install verifiers==0.4.0)

It needs the one package, not AgentRL: each has its own environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any


def lines_of(file: Path) -> Iterator[Any]:
    text = file.read_text(encoding="utf-8")
    return (json.loads(line) for line in text.split("\n") if line.strip())


def check_inspect(file: Path) -> dict[str, Any]:
    """Read the log, and write it once more as an .eval archive, which `agentrl import` can read too."""
    from inspect_ai.log import read_eval_log, write_eval_log

    log = read_eval_log(str(file))
    archive = file.with_suffix(".eval")
    write_eval_log(log, str(archive), "eval")
    again = read_eval_log(str(archive))
    samples = log.samples or []
    messages = {(sample.id, sample.epoch): sample.messages for sample in samples}
    assert messages == {(sample.id, sample.epoch): sample.messages for sample in again.samples or []}
    assert log.results is not None
    return {
        "status": log.status,
        "samples": len(samples),
        "messages": sum(len(sample.messages) for sample in samples),
        "errors": sum(sample.error is not None for sample in samples),
        "scores": {s.name: {m.name: m.value for m in s.metrics.values()} for s in log.results.scores},
        "archive": str(archive),
    }


def check_atif(file: Path) -> dict[str, Any]:
    """Validate each document, and compare ids and log-probabilities with those in the file."""
    from atif import Trajectory

    documents = list(lines_of(file))
    found = [Trajectory.model_validate(document) for document in documents]
    for document, read in zip(documents, found, strict=True):
        assert read.to_json_dict()["steps"] == json.loads(json.dumps(document["steps"])), "a field was changed"
    metrics = [step.metrics for read in found for step in read.steps if step.metrics is not None]
    ids = [m for m in metrics if m.completion_token_ids is not None]
    assert all(m.logprobs is None or len(m.logprobs) == len(m.completion_token_ids or ()) for m in ids)
    return {
        "documents": len(found),
        "steps": sum(len(read.steps) for read in found),
        "steps_with_ids": len(ids),
        "logprobs": sum(len(m.logprobs or ()) for m in ids),
    }


def check_verifiers(file: Path) -> dict[str, Any]:
    """Load the file as a saved run, and build each branch's training ids."""
    from verifiers.v1 import WireTrace
    from verifiers.v1.utils.trace_store import TRACES_FILE, read_episodes

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / TRACES_FILE).write_bytes(file.read_bytes())
        episodes = read_episodes(Path(folder), WireTrace)
    traces = [trace for episode in episodes for trace in episode.traces]
    branches = [branch for trace in traces for branch in trace.branches]
    for branch in branches:
        assert len(branch.token_ids) == len(branch.sampled_mask) == len(branch.logprobs)
    return {
        "episodes": len(episodes),
        "ok": sum(episode.ok for episode in episodes),
        "turns": sum(trace.num_turns for trace in traces),
        "branches": len(branches),
        "sampled_tokens": sum(sum(branch.sampled_mask) for branch in branches),
        "reward": sum(trace.reward for trace in traces),
    }


CHECKS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "inspect": ("inspect_ai", check_inspect),
    "atif": ("atif", check_atif),
    "verifiers": ("verifiers", check_verifiers),
}


def main(form: str, file: str) -> None:
    package, check = CHECKS[form]
    print(json.dumps({"package": f"{package} {version(package)}", **check(Path(file))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
