"""Tasks of an agent that has its own tools: what it is told, and how its end is scored. Owns no environment's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from agentrl.env.task_files import TaskFile
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError, EnvFault, TaskError
from agentrl.serving.capture.agents import Exit
from agentrl.trajectory import Task

_CALLBACK_S = 60.0


class AgentTasks(ToolEnv):
    """Tasks of an agent that has its own tools; scored by its exit status, or by a program that is asked over HTTP.

    Args:
        file: a file of tasks (.jsonl, .json, .csv or .tsv), each with `text` and, if they are to be evaluated, `split`;
            None is one task without a text.
        reward: `exit`, which is 1 where the agent's exit status is 0; or a URL: it is sent the task, the exit status
            and the answer, and replies `{"reward": NUMBER}`.
    """

    def __init__(self, *, file: str | None = None, reward: str = "exit", render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if reward != "exit" and not reward.startswith(("http://", "https://")):
            raise ConfigError(f"reward = {reward!r}: expected exit, or a URL")
        self.reward = reward
        self.tasks = Tasks.of(train=[{"text": ""}]) if file is None else _tasks(Path(file))
        self.ended: Exit | None = None

    def start(self, task: Task) -> str:
        self.ended = None
        return str(task.data.get("text", ""))

    async def score(self, answer: str | None) -> float:
        status = self.ended.status if self.ended is not None else None
        if self.reward == "exit":
            return float(status == 0)
        body = {"task": {"id": self.task.id, **self.task.data}, "exit_status": status, "answer": answer}
        return await _asked(self.reward, body)


async def _asked(url: str, body: dict[str, Any]) -> float:
    """The reward that a program gives. Raises: EnvFault if it gives none."""
    try:
        async with httpx.AsyncClient(timeout=_CALLBACK_S) as client:
            # An answer may hold half of a surrogate pair, which no UTF-8 can hold and an escape in JSON can.
            reply = await client.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
            reply.raise_for_status()
            return float(reply.json()["reward"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise EnvFault(f"{url} gave no reward: {type(error).__name__}: {error}") from error


def _tasks(file: Path) -> Tasks:
    """The tasks of a file. Raises: TaskError that names the line."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number, data in TaskFile(file).rows():
        if not isinstance(data.get("text"), str):
            raise TaskError(f"{file}, line {number}: the field 'text' is missing or is no text")
        found.setdefault(str(data.pop("split", "train")), []).append(data)
    if not found:
        raise TaskError(f'{file} has no tasks: write one JSON object a line, as in {{"text": "..."}}')
    return Tasks.of(**found)
