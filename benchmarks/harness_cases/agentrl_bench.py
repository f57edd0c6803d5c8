"""AgentRL: `run_bench` on a `ToolEnv`, with its folder of records or without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overhead_cases.agentrl_case import Ledger, Scripted
from overhead_cases.task import Problem

from agentrl.bench.result import BenchResult
from agentrl.bench.runner import run_bench
from agentrl.env.tasks import Tasks
from agentrl.rollout.store import TrajectoryStore
from harness_cases.played import Played, Setting


class Mock(Scripted):
    """The script, with a count of its turns."""

    turns = 0

    async def act(self, messages: Sequence[Any], tools: Any, **kwargs: Any) -> Any:
        self.turns += 1
        return await super().act(messages, tools, **kwargs)


def run(problems: Sequence[Problem], folder: Path, setting: Setting) -> tuple[BenchResult, Mock]:
    """One benchmark, all episodes of it. Without `references`, which are further episodes of other policies."""
    tasks = [{"id": p.id, "prompt": p.prompt, "answer": p.answer} for p in problems]
    env = type("Ledger", (Ledger,), {"tasks": Tasks.of(eval=tasks)})
    policy = Mock(problems)
    out = folder if setting.recorded else None
    return run_bench(env, policy, references=False, max_concurrency=setting.concurrency, out=out), policy


def read(ran: tuple[BenchResult, Mock], folder: Path, setting: Setting) -> Played:
    result, policy = ran
    outcomes, size = None, 0
    if setting.recorded:
        store = folder / "trajectories.jsonl"
        outcomes, size = {}, store.stat().st_size
        for trajectory in TrajectoryStore(store):
            results = tuple(m.content for m in trajectory.messages() if m.role == "tool")
            outcomes[trajectory.task.data["id"]] = (trajectory.reward, results)
    return Played(policy.turns, result.score.reward.mean, outcomes, size)
