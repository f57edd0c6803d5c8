"""verifiers: its in-process `ToolEnv` and `Rubric` through `run_rollout`, 64 at a time, with a scripted client.

Later releases than the pinned one dropped this environment: there a rollout is a harness program in a
process of its own that reaches its tools and its model over HTTP, which has no cost per step to compare.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import verifiers.legacy as vf
from datasets import Dataset
from verifiers.legacy.clients.client import Client
from verifiers.legacy.types import Response, ResponseMessage, ToolCall
from verifiers.legacy.utils.save_utils import make_serializable

from overhead_cases.task import CONCURRENCY, Outcome, Problem, add, lookup

vf.setup_logging("ERROR")


class ScriptedClient(Client):
    """Answers each turn from the script, after one turn of the event loop; converts nothing."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(None)
        self.problems = {problem.id: problem for problem in problems}

    async def get_response(self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **kwargs: Any) -> Any:
        state = kwargs["state"]
        await asyncio.sleep(0)
        action = self.problems[state["example_id"]].assistant[len(state["trajectory"])]
        calls = [
            ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in action.get("tool_calls", ())
        ]
        message = ResponseMessage(
            content=action["content"],
            tool_calls=calls or None,
            finish_reason="tool_calls" if calls else "stop",
            is_truncated=False,
        )
        return Response(id="response", created=0, model=model, message=message)

    def setup_client(self, config: Any) -> Any: ...
    async def to_native_tool(self, tool: Any) -> Any: ...
    async def to_native_prompt(self, messages: Any) -> Any: ...
    async def get_native_response(self, *args: Any, **kwargs: Any) -> Any: ...
    async def raise_from_native_response(self, response: Any) -> None: ...
    async def from_native_response(self, response: Any) -> Any: ...
    async def close(self) -> None: ...


def exact(completion: Any, answer: str) -> float:
    return 1.0 if completion[-1].content == answer else 0.0


def _input(problem: Problem) -> dict[str, Any]:
    prompt = [{"role": "user", "content": problem.prompt}]
    return {"prompt": prompt, "answer": problem.answer, "example_id": problem.id}


_env: Any = None


def run(problems: Sequence[Problem], path: Path) -> None:
    global _env
    if _env is None:
        dataset = Dataset.from_list([_input(problem) for problem in problems[:1]])
        _env = vf.ToolEnv(tools=[lookup, add], max_turns=10, dataset=dataset, rubric=vf.Rubric(funcs=[exact]))
    asyncio.run(_run(problems, path))


async def _run(problems: Sequence[Problem], path: Path) -> None:
    client = ScriptedClient(problems)
    slots = asyncio.Semaphore(CONCURRENCY)
    with path.open("w") as file:

        async def play(problem: Problem) -> None:
            async with slots:
                output = await _env.run_rollout(_input(problem), client, "scripted", {})
            file.write(json.dumps(output, default=make_serializable) + "\n")

        await asyncio.gather(*(play(problem) for problem in problems))


def read(path: Path) -> dict[int, Outcome]:
    outcomes = {}
    for line in path.read_text().splitlines():
        output = json.loads(line)
        results = tuple(m["content"] for m in output["completion"] if m["role"] == "tool")
        outcomes[output["example_id"]] = (output["reward"], results)
    return outcomes
