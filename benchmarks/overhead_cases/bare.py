"""The yardstick: the loop that anyone would write without a framework.

Per step it takes the scripted OpenAI assistant message, appends it to the conversation, parses the
call's JSON arguments, looks the tool up in a dictionary, calls it, and appends the tool message. At
the end it compares the answer and writes the conversation as one JSON line. It validates no argument,
handles no error, has no limit, no timeout, no statistics, no seed and no asynchronous policy.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from overhead_cases.task import CONCURRENCY, LOGPROBS, TOOLS, Problem, prompt_ids, read_transcripts, token_ids

read = read_transcripts


def record(file: TextIO, problem: Problem, messages: list[dict[str, Any]], reward: float) -> None:
    """Write one episode."""
    file.write(json.dumps({"id": problem.id, "messages": messages, "reward": reward}) + "\n")


def run(problems: Sequence[Problem], path: Path) -> None:
    """64 episodes in lock-step, recorded."""
    with path.open("w") as file:
        _run(problems, file)


def run_tokens(problems: Sequence[Problem], path: Path) -> None:
    """The same, and each assistant message is recorded with its prompt ids, sampled ids and logprobs."""
    with path.open("w") as file:
        _run(problems, file, tokens=True)


def run_unrecorded(problems: Sequence[Problem], path: Path) -> None:
    """The same, nothing written."""
    _run(problems, None)


def _run(problems: Sequence[Problem], file: TextIO | None, tokens: bool = False) -> None:
    for start in range(0, len(problems), CONCURRENCY):
        live = [(problem, [{"role": "user", "content": problem.prompt}]) for problem in problems[start : start + 64]]
        turn = 0
        while live:
            still = []
            for problem, messages in live:
                action = problem.assistant[turn]
                if tokens:
                    ids = {"prompt_ids": prompt_ids(turn), "token_ids": token_ids(turn), "logprobs": LOGPROBS}
                    action = {**action, **ids}
                messages.append(action)
                calls = action.get("tool_calls")
                if calls:
                    for call in calls:
                        function = call["function"]
                        result = TOOLS[function["name"]](**json.loads(function["arguments"]))
                        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
                    still.append((problem, messages))
                else:
                    reward = 1.0 if action["content"] == problem.answer else 0.0
                    if file is not None:
                        record(file, problem, messages, reward)
            live = still
            turn += 1


def run_async(problems: Sequence[Problem], path: Path) -> None:
    """The same loop as 64 asyncio workers, whose policy yields once per turn as any served model does."""
    asyncio.run(_run_async(problems, path))


async def _run_async(problems: Sequence[Problem], path: Path) -> None:
    waiting = iter(problems)
    with path.open("w") as file:
        await asyncio.gather(*(_worker(waiting, file) for _ in range(CONCURRENCY)))


async def _act(problem: Problem, turn: int) -> dict[str, Any]:
    await asyncio.sleep(0)
    return problem.assistant[turn]


async def _worker(waiting: Any, file: TextIO) -> None:
    for problem in waiting:
        messages: list[dict[str, Any]] = [{"role": "user", "content": problem.prompt}]
        turn = 0
        while True:
            action = await _act(problem, turn)
            messages.append(action)
            turn += 1
            calls = action.get("tool_calls")
            if not calls:
                break
            for call in calls:
                function = call["function"]
                result = TOOLS[function["name"]](**json.loads(function["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        record(file, problem, messages, 1.0 if action["content"] == problem.answer else 0.0)
