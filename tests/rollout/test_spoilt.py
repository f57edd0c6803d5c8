"""An episode that destroys what all instances share: the others are discarded, and the run says why."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.tool_schema import tool
from agentrl.trajectory import Task


class Shared(ToolEnv):
    """Every instance reads the same folder."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(6)])
    folder: Path
    reads_at_start = True
    bad: frozenset[int] = frozenset()

    def start(self, task: Task) -> str:
        if task.data["n"] in self.bad:
            raise ValueError("this task is broken")
        return (self.folder / "page").read_text() if self.reads_at_start else "Go."

    @tool
    def read(self) -> str:
        """Read."""
        return (self.folder / "page").read_text()

    @tool
    def clean(self, all: bool) -> str:
        """Clean."""
        if all:
            shutil.rmtree(self.folder)
        return "clean"

    def score(self, answer: str | None) -> float:
        return 1.0


class Cleans(Policy):
    """Removes everything in one of the tasks, and reads in the others."""

    def __init__(self, at: int) -> None:
        self.at = at

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        if any(message.role == "assistant" for message in messages):
            return Action("bye")
        return call("clean", all=True) if episode_id.startswith(f"{self.at}/") else call("read")


async def played(tmp_path: Path, at: int = 2, **attributes: Any) -> list[str]:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "page").write_text("page")
    env = type("Shared", (Shared,), {"folder": folder, **attributes})
    async with Rollouts(
        env, Cleans(at), backoff_s=0, max_attempts=2, max_fault_fraction=1.0, max_concurrency=1
    ) as rollouts:
        tasks = Shared.tasks.split("eval")
        groups = await rollouts.run(GroupRequest(task, 1, group_id=str(n)) for n, task in enumerate(tasks))
    return [group.trajectories[0].ending.kind for group in groups]


@pytest.mark.parametrize("reads_at_start", [True, False])
async def test_a_run_says_that_an_episode_may_have_spoilt_what_all_share(
    reads_at_start: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = await played(tmp_path, reads_at_start=reads_at_start)
    assert kinds == ["answer", "answer", "answer", "fault", "fault", "fault"]
    told = [r.getMessage() for r in caplog.records if "an episode may have spoilt it" in r.getMessage()]
    assert len(told) == 1
    assert "FileNotFoundError" in told[0]


async def test_a_task_that_is_broken_alone_is_not_said_to_be_spoilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = await played(tmp_path, at=9, bad=frozenset((2, 4)))
    assert kinds == ["answer", "answer", "fault", "answer", "fault", "answer"]
    assert "may have spoilt" not in caplog.text
