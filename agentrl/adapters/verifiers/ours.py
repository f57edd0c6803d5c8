"""An environment of ours as a taskset of verifiers, with the harness that plays it (`pip install verifiers==0.4.0`).

verifiers finds both by the name `agentrl_verifiers`. The harness is a loop in the process of the evaluation: the model
is asked through verifiers, which records its turns, and the environment is stepped here. The first message that the
model reads is the environment's; the prompt of the row only names the task.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import verifiers.v1 as vf
from pydantic import Field
from verifiers.v1.runtimes import ProgramResult

from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.policy.base import Policy
from agentrl.policy.chat import ChatPolicy
from agentrl.policy.scripted import NullPolicy, OraclePolicy
from agentrl.rollout.episode import run_episode
from agentrl.trajectory import Trajectory

_INFO = "agentrl"
_TRIES = 2


class AgentRLConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which tasks: `--env.taskset.env agentrl/Shop-v0`."""

    env: str = ""
    """An id, `package.module:Class`, `./file.py:Class`, or the URL of a served environment."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its constructor."""
    split: str = "train"
    seed: int = Field(0, ge=0)
    """Of every episode; attempts at one task start alike."""


class AgentRLData(vf.TaskData):  # type: ignore[misc]
    """A row: one task of the environment."""

    env: str
    kwargs: dict[str, Any]
    split: str
    seed: int


class AgentRLTask(vf.Task[AgentRLData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    """One task: its reward is that of the episode, and its reference answer is the environment's oracle."""

    @property
    def key(self) -> str:
        return f"{self.data.env}/{self.data.split}/{self.data.id}"

    async def validate(self, runtime: Any) -> bool | None:
        """Whether the oracle solves the task; None where there is none."""
        env = _made(self.data)
        try:
            if not callable(getattr(env.unwrapped, "oracle", None)):
                return None
            return (await _played(env, OraclePolicy(), self.data)).success
        finally:
            await env.aclose()

    @vf.reward  # type: ignore[untyped-decorator]
    async def reward(self, trace: vf.Trace) -> float:
        """The episode's reward; that of doing nothing where no agent has played."""
        if _INFO in trace.info:
            return float(trace.info[_INFO]["reward"])
        env = _made(self.data)
        try:
            return float((await _played(env, NullPolicy(), self.data)).reward)
        finally:
            await env.aclose()

    @vf.metric  # type: ignore[untyped-decorator]
    async def success(self, trace: vf.Trace) -> float:
        return float(trace.info.get(_INFO, {}).get("success", False))


class AgentRLTaskset(vf.Taskset[AgentRLTask, AgentRLConfig]):  # type: ignore[misc]
    """The tasks of one split of an environment."""

    def load(self) -> Iterable[AgentRLTask]:
        config = self.config
        if not config.env:
            raise ValueError("which environment? --env.taskset.env agentrl/Shop-v0, or a file or URL")
        env = registry.make(config.env, **config.kwargs)
        try:
            tasks = env.tasks.split(config.split)
        finally:
            with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
                thread.submit(env.close).result()
        for task in tasks:
            shared = {"env": config.env, "kwargs": config.kwargs, "split": config.split, "seed": config.seed}
            prompt = f"{config.env}, task {task.id}"
            yield AgentRLTask(AgentRLData(id=task.id, name=task.id, prompt=prompt, **shared), config.task)


class AgentRLHarness(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
    """Plays a task of `AgentRLTaskset`: asks the model, steps the environment, and asks again."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> ProgramResult:
        """Raises: TypeError for a task of another taskset; RuntimeError if the environment or the model failed."""
        if not isinstance(data, AgentRLData):
            raise TypeError(f"this harness plays tasks of agentrl_verifiers, not {type(data).__name__}")
        env = _made(data)
        try:
            # httpx's own timeouts are off: the policy has a deadline for each request.
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {secret}"}, timeout=None) as client:
                policy = ChatPolicy(ctx.model, base_url=endpoint, client=client, max_retries=_TRIES)
                episode = await _played(env, policy, data)
        finally:
            await env.aclose()
        if episode.status == "fault" and trace.stop_condition is None:
            raise RuntimeError(f"the episode failed and does not count: {episode.ending.detail}")
        trace.info[_INFO] = _outcome(episode)
        return ProgramResult(0, "", "")


def _outcome(episode: Trajectory) -> dict[str, Any]:
    return {
        "reward": episode.reward,
        "success": episode.success,
        "reward_components": dict(episode.reward_components),
        "ending": [episode.ending.kind, episode.ending.detail],
        "turn_rewards": [turn.reward for turn in episode.turns],
        "last_observation": [m.content for m in episode.turns[-1].next_observation] if episode.turns else [],
        "fingerprint": episode.task.fingerprint,
    }


def _made(data: AgentRLData) -> Env:
    return registry.make(data.env, **data.kwargs)


async def _played(env: Env, policy: Policy, data: AgentRLData) -> Trajectory:
    assert data.id is not None
    return await run_episode(env, policy, env.tasks[data.id], data.seed)
