"""Instances and episodes that cannot be begun again, for what an earlier episode or attempt left behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentrl.env.base import Limits
from agentrl.env.tool_env import ToolEnv, call
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task, counted_successes
from tests.three_episodes import TASKS, AwaitsItsJob, three_episodes


class Leaves(ToolEnv):
    """An episode takes a place that only its score gives back, as a folder or the name of a user."""

    tasks = TASKS
    limits = Limits(max_turns=3)
    taken: ClassVar[set[str]]
    locked: ClassVar[list[str]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.locked:
            raise RuntimeError("the database is locked")

    def start(self, task: Task) -> str:
        if task.id in self.taken:
            raise FileExistsError(task.id)
        self.taken.add(task.id)
        return "Go."

    @tool
    def use(self, word: str) -> str:
        """Use a word."""
        if word == "lock":
            self.locked.append(word)
        if word != "a":
            raise KeyError(word)
        return word

    def score(self, answer: str | None) -> float:
        self.taken.remove(self.task.id)
        return 1.0


def leaves() -> type[Leaves]:
    return type("Leaves", (Leaves,), {"taken": set(), "locked": []})


class Words(Policy):
    """Uses the word of its episode, then answers."""

    def __init__(self, **words: str) -> None:
        self.words = words

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        said = call("use", word=self.words.get(episode_id.split("/")[0], "a"))
        return Action("bye") if len(messages) > 1 else said


@pytest.mark.parametrize("attempts", [2, 3])
async def test_an_episode_that_cannot_be_begun_again_is_ruled_on_by_how_it_failed_before(attempts: int) -> None:
    _, episode, _ = await three_episodes(leaves(), Words(second="odd"), attempts)
    assert (episode.ending.kind, episode.ending.who) == ("error", "author"), "the tool works on what others said"
    assert "KeyError" in episode.ending.detail
    assert len(episode.turns) == 1
    assert episode.labels.attempt >= 1
    assert not episode.labels.superseded
    assert counted_successes([episode]) == [False]


async def test_where_nothing_can_be_begun_any_more_it_is_discarded_after_the_model_had_acted() -> None:
    _, episode, third = await three_episodes(leaves(), Words(second="lock"))
    assert (episode.ending.kind, episode.ending.who, len(episode.turns)) == ("fault", "author", 1)
    assert counted_successes([episode]) == [False], "it counts as failed wherever a policy could gain by losing it"
    assert (third.ending.kind, third.turns) == ("fault", [])
    assert "locked" in third.ending.detail


async def test_an_instance_that_cannot_be_made_any_more_is_a_fault() -> None:
    env = leaves()
    await three_episodes(env, Words(second="lock"))
    with pytest.raises(RuntimeError, match="the database is locked"):  # the first one: what was given is wrong
        await three_episodes(env, ScriptedPolicy(["bye"]))


class Closes(Leaves, AwaitsItsJob):
    """Its close awaits a task that it has cancelled."""

    @tool
    async def use(self, word: str) -> str:
        """Use a word."""
        self.begin_job()
        return word


async def test_a_close_that_awaits_what_it_has_cancelled_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    env = type("Closes", (Closes,), {"taken": set(), "locked": []})
    episodes = await three_episodes(env, Words())
    assert [episode.success for episode in episodes] == [True, True, True]
    assert "closing Closes failed: CancelledError" in caplog.text


async def test_a_cancellation_while_an_instance_is_closed_passes() -> None:
    closing = asyncio.Event()

    class Slow(Leaves):
        taken, locked = set(), []

        async def aclose(self) -> None:
            closing.set()
            await asyncio.sleep(1000)

    task = asyncio.create_task(three_episodes(Slow, Words()))
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Cd(ToolEnv):
    """Its tool changes the working directory, as a shell's `cd` that was written in a hurry."""

    tasks, limits = Leaves.tasks, Leaves.limits

    def start(self, task: Task) -> str:
        return Path("prompt.txt").read_text(encoding="utf-8")

    @tool
    def use(self, word: str) -> str:
        """Use a word."""
        os.chdir(word)
        return os.getcwd()

    def score(self, answer: str | None) -> float:
        return 1.0


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_tool_that_changes_the_working_directory_harms_no_other_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_removed: bool
) -> None:
    (tmp_path / "prompt.txt").write_text("Go.", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    class Removes(Cd):
        def score(self, answer: str | None) -> float:
            if is_removed and elsewhere.exists():
                elsewhere.rmdir()
            return 1.0

    store = TrajectoryStore("runs/episodes.jsonl")
    episodes = await three_episodes(Removes, Words(first=str(elsewhere), second=".", third="."), store=store)
    assert [episode.success for episode in episodes] == [True, True, True]
    assert Path.cwd() == tmp_path
    assert len(list(TrajectoryStore(tmp_path / "runs" / "episodes.jsonl"))) == 3
    assert caplog.text.count("changed the working directory of the whole process") == 1
