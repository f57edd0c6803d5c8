"""Makes tasks and plays recorded actions in fresh processes, each with its own PYTHONHASHSEED. Judges nothing.

Each process runs `main`, which reads the request as JSON from standard input.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from agentrl.env.check.player import Episode, Start, Subject, as_data, play_on, replay
from agentrl.env.registry import make
from agentrl.env.tasks import Tasks
from agentrl.messages import Action, ToolCall
from agentrl.trajectory import Task

logger = logging.getLogger(__name__)
_HASH_SEEDS = ("1", "2718")
_START_S = 30.0


@dataclass(frozen=True)
class Elsewhere:
    """What another process found.

    Attributes:
        tasks: split -> id and fingerprint of each task, in order.
        transcripts: the steps of each script.
    """

    tasks: Mapping[str, Sequence[Sequence[str]]]
    transcripts: Sequence[list[Any]]


def play_elsewhere(subject: Subject, scripts: Sequence[tuple[Start, Episode]]) -> list[Elsewhere]:
    """The tasks of the environment and the steps of each script, made again in other processes.

    Returns: one for each process; empty if another process cannot make the environment (a class of a notebook or a
        test).
    """
    if subject.reference is None:
        return []
    request = json.dumps(
        {
            "reference": subject.reference,
            "kwargs": as_data(subject.kwargs),
            "scripts": [{"start": _start_to_json(start), "actions": _to_json(episode)} for start, episode in scripts],
        }
    )
    limit_s = _START_S + subject.timeout_s * len(scripts)
    with ExitStack() as started:
        processes = [started.enter_context(_process(seed)) for seed in _HASH_SEEDS]
        found = [_collect(process, request, limit_s) for process in processes]
    return [one for one in found if one is not None]


def marks_of(tasks: Tasks) -> dict[str, list[list[str]]]:
    """Split -> id and fingerprint of each task, in order."""
    return {name: [[task.id, task.fingerprint] for task in tasks.split(name)] for name in tasks.splits}


@contextmanager
def _process(hash_seed: str) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a request; it is killed if it still runs when the caller leaves."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", "from agentrl.env.check.fresh_process import main; main()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _collect(process: subprocess.Popen[str], request: str, limit_s: float) -> Elsewhere | None:
    try:
        output, errors = process.communicate(request, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    if process.returncode != 0:
        logger.info("another process cannot make the environment: %s", errors.strip().split("\n")[-1])
        return None
    return Elsewhere(**json.loads(output.rsplit("\n", 1)[-1]))


def _start_to_json(start: Start) -> dict[str, Any]:
    task = start.task
    return {"seed": start.seed, "task": {"id": task.id, "split": task.split, "data": as_data(task.data)}}


def _to_json(episode: Episode) -> list[dict[str, Any]]:
    return [
        {
            "text": action.text,
            "calls": [[call.name, as_data(call.arguments), call.id] for call in action.tool_calls],
            "usage": dict(action.usage or {}),
        }
        for action in episode.actions
    ]


def _from_json(record: dict[str, Any]) -> Action:
    calls = tuple(ToolCall(name, arguments, id) for name, arguments, id in record["calls"])
    return Action(record["text"], calls, usage=record["usage"])


async def _play_scripts(request: dict[str, Any]) -> list[list[Any]]:
    transcripts = []
    for script in request["scripts"]:
        start = Start(script["start"]["seed"], Task(**script["start"]["task"]))
        actions = [_from_json(record) for record in script["actions"]]
        async with aclosing(make(request["reference"], **request["kwargs"])) as env:
            episode = await play_on(env, replay(actions), start, max_steps=len(actions))
        transcripts.append(list(episode.steps))
    return transcripts


def main() -> None:
    """Read a request, play it, and write the tasks and the steps as the last line of the output."""
    request = json.load(sys.stdin)
    tasks = marks_of(make(request["reference"], **request["kwargs"]).tasks)
    transcripts = asyncio.run(_play_scripts(request))
    sys.stdout.write("\n" + json.dumps({"tasks": tasks, "transcripts": transcripts}))
