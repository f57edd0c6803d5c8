"""Three episodes of one instance, one after the other, and an environment whose close awaits what it has cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.policy.base import Policy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.trajectory import Trajectory

TASKS = Tasks.of(eval=[{"n": n} for n in range(3)])


async def three_episodes(env: Any, policy: Policy, attempts: int = 3, **more: Any) -> list[Trajectory]:
    """The episodes of the groups `first`, `second` and `third`, one for each of `TASKS`."""
    async with Rollouts(
        env, policy, backoff_s=0, max_attempts=attempts, max_fault_fraction=1.0, max_concurrency=1, **more
    ) as rollouts:
        names = ("first", "second", "third")
        requests = [GroupRequest(t, 1, group_id=n) for t, n in zip(TASKS.split("eval"), names, strict=True)]
        return [group.trajectories[0] for group in await rollouts.run(requests)]


class AwaitsItsJob(ToolEnv):
    """Its close cancels a task that a tool has started, and awaits it."""

    job: asyncio.Task[None] | None = None

    def begin_job(self) -> None:
        self.job = asyncio.create_task(asyncio.sleep(1000))

    async def aclose(self) -> None:
        await super().aclose()
        if self.job is not None:
            self.job.cancel()
            await self.job
