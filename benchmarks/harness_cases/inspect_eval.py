"""Inspect AI: `eval` of a task with two tools, `generate` and a scorer, with the mock model that comes with it.

Recorded is its default, one `.eval` log with every sample and its events, buffered in a database as they happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage, get_model
from inspect_ai.model._call_tools import parse_tool_call
from inspect_ai.scorer import Score, Target, mean, scorer
from inspect_ai.solver import TaskState, generate, use_tools
from inspect_ai.tool import tool
from overhead_cases import task as ledger
from overhead_cases.task import Problem

from harness_cases.played import Played, Setting


@tool
def lookup() -> Any:
    async def execute(item: str) -> str:
        """The price of an item, in cents.

        Args:
            item: its name.
        """
        return ledger.lookup(item)

    return execute


@tool
def add() -> Any:
    async def execute(a: int, b: int) -> str:
        """The sum of two whole numbers.

        Args:
            a: one.
            b: the other.
        """
        return ledger.add(a, b)

    return execute


@scorer(metrics=[mean()])
def exact() -> Any:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=1.0 if state.output.completion == target.text else 0.0)

    return score


class Mock:
    """Reads the script's OpenAI message, as a provider of Inspect reads one, after one turn of the event loop."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.scripts = {problem.prompt: problem.assistant for problem in problems}
        self.turns = 0

    async def __call__(self, messages: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
        await asyncio.sleep(0)
        self.turns += 1
        said = self.scripts[messages[0].text][len(messages) // 2]
        calls = [
            parse_tool_call(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in said.get("tool_calls", ())
        ]
        message = ChatMessageAssistant(content=said["content"], tool_calls=calls or None, source="generate")
        choice = ChatCompletionChoice(message=message, stop_reason="tool_calls" if calls else "stop")
        # Counts of its own, or the mock model would count the tokens of every prompt with a downloaded tokenizer.
        usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return ModelOutput(model="mockllm/model", choices=[choice], usage=usage)


def run(problems: Sequence[Problem], folder: Path, setting: Setting) -> tuple[EvalLog, Mock]:
    """One evaluation. Without a terminal display and a control server, which the others do not have."""
    samples = [Sample(id=p.id, input=p.prompt, target=p.answer) for p in problems]
    task = Task(dataset=MemoryDataset(samples), solver=[use_tools(lookup(), add()), generate()], scorer=exact())
    mock = Mock(problems)
    off: dict[str, Any] = {} if setting.recorded else {"log_samples": False, "log_realtime": False}
    [log] = eval(
        task,
        get_model("mockllm/model", custom_outputs=mock, memoize=False),
        log_dir=str(folder),
        display="none",
        ctl_server=False,
        score_display=False,
        max_samples=setting.concurrency,
        max_connections=setting.concurrency,
        log_header_only=True,
        **off,
    )
    return log, mock


def read(ran: tuple[EvalLog, Mock], folder: Path, setting: Setting) -> Played:
    log, mock = ran
    if log.status != "success" or log.results is None:
        raise RuntimeError(f"Inspect ended with {log.status}: {log.error and log.error.message[:400]}")
    outcomes = None
    if setting.recorded:
        outcomes = {}
        for sample in read_eval_log(log.location).samples or []:
            results = tuple(m.text for m in sample.messages if m.role == "tool")
            value = (sample.scores or {})["exact"].value
            outcomes[int(sample.id)] = (float(value), results)
    size = sum(path.stat().st_size for path in folder.rglob("*.eval"))
    return Played(mock.turns, log.results.scores[0].metrics["mean"].value, outcomes, size)
