"""AgentRL: a `ToolEnv`, through `Rollouts` into a `TrajectoryStore`, and stepped by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task
from overhead_cases import task as ledger
from overhead_cases.lockstep import run_lockstep
from overhead_cases.task import CONCURRENCY, Outcome, Problem, read_transcripts


class Ledger(ToolEnv):
    """Add prices up."""

    tasks = Tasks.of(train=[{}])

    async def start(self, task: Task) -> str:
        return task.data["prompt"]

    @tool
    def lookup(self, item: str) -> str:
        """The price of an item, in cents."""
        return ledger.lookup(item)

    @tool
    def add(self, a: int, b: int) -> str:
        """The sum of two whole numbers."""
        return ledger.add(a, b)

    async def score(self, answer: str | None) -> float:
        return 1.0 if answer == self.task.data["answer"] else 0.0


class Scripted(Policy):
    """Reads the script's OpenAI message (JSON arguments and all), after one turn of the event loop."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.scripts = {problem.prompt: problem.assistant for problem in problems}

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        await asyncio.sleep(0)
        return Action.of(self.scripts[messages[0].content][len(messages) // 2])


class ScriptedTokens(Scripted):
    """The same, with the ids and logprobs that a local model reports: 24 sampled ids a turn, 200 of prompt."""

    async def act(self, messages: Sequence[Message], tools: Any, **kwargs: Any) -> Action:
        action = await super().act(messages, tools, **kwargs)
        turn = len(messages) // 2
        return Action(
            text=action.text,
            tool_calls=action.tool_calls,
            prompt_ids=ledger.prompt_ids(turn),
            token_ids=ledger.token_ids(turn),
            logprobs=ledger.LOGPROBS,
        )


def _task(problem: Problem) -> Task:
    return Task(str(problem.id), "train", {"prompt": problem.prompt, "answer": problem.answer})


def run(problems: Sequence[Problem], path: Path) -> None:
    """64 at a time through `Rollouts`, every trajectory stored."""
    _loop.run(_run(problems, path, Scripted))


def run_tokens(problems: Sequence[Problem], path: Path) -> None:
    """The same with token ids and logprobs on every turn."""
    _loop.run(_run(problems, path, ScriptedTokens))


# As in training, one loop and one `Rollouts` with its 64 environments serve every round.
_loop = asyncio.Runner()
_rollouts: dict[type[Scripted], Rollouts] = {}


async def _run(problems: Sequence[Problem], path: Path, policy: type[Scripted]) -> None:
    rollouts = _rollouts.get(policy)
    if rollouts is None:
        rollouts = Rollouts(Ledger, policy([]), env_id="overhead/Ledger-v0", max_concurrency=CONCURRENCY)
        _rollouts[policy] = rollouts
    rollouts.policy = policy(problems)
    requests = [GroupRequest(_task(problem), seed=problem.id, size=1) for problem in problems]
    with TrajectoryStore(path) as rollouts.store:
        async for _ in rollouts.stream(requests):
            pass


def read(path: Path) -> dict[int, Outcome]:
    outcomes = {}
    for trajectory in TrajectoryStore(path):
        results = tuple(m.content for m in trajectory.messages() if m.role == "tool")
        outcomes[int(trajectory.task.id)] = (trajectory.reward, results)
    return outcomes


# Stepped by hand.

read_steps = read_transcripts
_idle: list[Ledger] = []


def run_steps(problems: Sequence[Problem], path: Path) -> None:
    """Gymnasium's synchronous face in lock-step, recorded as the bare loop does."""
    while len(_idle) < CONCURRENCY:
        _idle.append(Ledger())
    run_lockstep(problems, path, _make, _step, "assistant")


def _make(problem: Problem) -> Ledger:
    env = _idle[problem.id % CONCURRENCY]
    env.reset(seed=problem.id, options={"task": _task(problem)})
    return env


def _step(env: Ledger, action: Any) -> tuple[str, float, bool]:
    observation, reward, terminated, truncated, _ = env.step(action)
    return observation[0].content if observation else "", reward, terminated or truncated
