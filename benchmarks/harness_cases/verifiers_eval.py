"""verifiers 0.4: its evaluation runner on a taskset, with a harness that loops in process.

A harness of this release is a program, by default one that is started for each episode. It reaches its model through a
local HTTP server, and its tools through another. verifiers allows a harness that is a loop in the evaluation's own
process, if it calls the model through that server. This one does so, and calls its tools as functions: the cheapest
that is allowed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import verifiers.v1 as vf
from overhead_cases.task import TOOL_SCHEMAS, TOOLS, Problem
from verifiers.v1.cli.eval.runner import run_eval
from verifiers.v1.clients import Client
from verifiers.v1.configs.cli.eval import EvalConfig
from verifiers.v1.interception import server
from verifiers.v1.runtimes import ProgramResult
from verifiers.v1.types import AssistantMessage, Response, ToolCall
from verifiers.v1.utils.loaders import load_environment
from verifiers.v1.utils.trace_store import TRACES_FILE, read_episodes

from harness_cases.played import Played, Setting

__all__ = ["Ledger", "Loop"]
PLUGIN = "harness_ledger"
sys.modules[PLUGIN] = sys.modules[__name__]  # plugins are found by the name of a top-level module
logging.getLogger("verifiers").setLevel(logging.ERROR)
_problems: Sequence[Problem] = ()


class Row(vf.TaskData):
    """A task's row."""

    problem: int
    answer: str


class Sum(vf.Task[Row]):
    """One problem."""

    @vf.reward
    async def exact(self, trace: vf.Trace) -> float:
        return 1.0 if trace.last_reply == self.data.answer else 0.0


class Ledger(vf.Taskset[Sum, vf.TasksetConfig]):
    """The problems of the run that is under way."""

    def load(self) -> Iterable[Sum]:
        for p in _problems:
            yield Sum(Row(prompt=p.prompt, problem=p.id, answer=p.answer), self.config.task)


class Loop(vf.Harness[vf.HarnessConfig]):
    """Asks the model, calls tools, and asks again."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False
    http: aiohttp.ClientSession | None = None

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> ProgramResult:
        headers = {"Authorization": f"Bearer {secret}"}
        messages: list[dict[str, Any]] = [{"role": "user", "content": data.prompt}]
        while True:
            body = {"model": ctx.model, "messages": messages, "tools": TOOL_SCHEMAS}
            assert Loop.http is not None
            async with Loop.http.post(f"{endpoint}/chat/completions", json=body, headers=headers) as response:
                response.raise_for_status()
                said = (await response.json())["choices"][0]["message"]
            messages.append(said)
            if not said.get("tool_calls"):
                return ProgramResult(0, "", "")
            for call in said["tool_calls"]:
                result = TOOLS[call["function"]["name"]](**json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


class Mock(Client):
    """The script after one turn of the event loop, as a model client of verifiers. Counts its turns."""

    turns = 0

    def __init__(self, config: Any) -> None:
        self.scripts = {problem.prompt: problem.assistant for problem in _problems}

    async def get_response(self, dialect: Any, body: Any, sampling: Any, **_: Any) -> Response:
        await asyncio.sleep(0)
        Mock.turns += 1
        messages = body["messages"]
        said = self.scripts[messages[0]["content"]][len(messages) // 2]
        calls = [
            ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in said.get("tool_calls", ())
        ]
        finish = "tool_calls" if calls else "stop"
        message = AssistantMessage(content=said["content"], tool_calls=calls or None)
        raw = {"choices": [{"index": 0, "message": said, "finish_reason": finish}]}
        return Response(id="r", created=0, model="mock", message=message, finish_reason=finish, raw=raw)


server.resolve_client = Mock  # type: ignore[assignment]


def run(problems: Sequence[Problem], folder: Path, setting: Setting) -> list[Any]:
    """One evaluation, its records in `traces.jsonl`; unrecorded, the same episodes without the hook that writes."""
    global _problems
    _problems, Mock.turns = problems, 0
    return asyncio.run(_run(folder, setting))


async def _run(folder: Path, setting: Setting) -> list[Any]:
    config = EvalConfig(
        env={"taskset": {"id": PLUGIN}, "agent": {"runtime": {"type": "subprocess"}}},
        model="mock",
        client={"base_url": "http://127.0.0.1:9/v1", "api_key_var": "NO_KEY"},
        max_concurrent=setting.concurrency,
        rich=None,
        push=False,
        output_dir=folder,
        run={"dir": "run"},
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as Loop.http:
        return await (run_eval(config) if setting.recorded else _unrecorded(config, setting))


async def _unrecorded(config: EvalConfig, setting: Setting) -> list[Any]:
    env = load_environment(config.env)
    ctx = vf.ModelContext(client=config.client, model=config.model, sampling=config.sampling)
    limit = asyncio.Semaphore(setting.concurrency)
    async with env.serving():
        slots = [slot for task in env.taskset for slot in env.slots(task)]
        return list(await asyncio.gather(*(env.run_slot(slot, ctx, limit) for slot in slots)))


def read(episodes: list[Any], folder: Path, setting: Setting) -> Played:
    failed = [error for episode in episodes if not episode.ok for error in [*episode.errors, *episode.traces]]
    if failed:
        raise RuntimeError(f"an episode of verifiers failed: {failed[0]}")
    score = sum(trace.reward for episode in episodes for trace in episode.traces) / len(episodes)
    if not setting.recorded:
        return Played(Mock.turns, score, None, 0)
    outcomes = {}
    for episode in read_episodes(folder / "run", vf.WireTrace):
        [trace] = episode.traces
        results = tuple(m.content for m in trace.branches[-1].messages if m.role == "tool")
        outcomes[trace.task.data.problem] = (trace.reward, results)
    return Played(Mock.turns, score, outcomes, (folder / "run" / TRACES_FILE).stat().st_size)
