"""Kept demonstrations: two runs at once, folders that are not whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Action, Message
from agentrl.rollout.sources.base import Source, State
from agentrl.rollout.sources.kept import demonstrations_identity, kept
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn

LABELS = Labels("copy")
TASKS = [Task("t", data={"n": 1})]


class Two(Source):
    """Two groups; `ready` holds them back."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self.taken = 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        return self._groups(n)

    async def _groups(self, n: int) -> list[TrajectoryGroup]:
        self.taken += 1
        await self.ready.wait()
        turn = Turn((Message("user", "hi"),), Action("ho"))
        made = [Trajectory(EnvRef("e"), TASKS[0], i, [turn], Ending("answer"), f"demo-{i}") for i in range(n)]
        return [TrajectoryGroup(episode.group_id, [episode]) for episode in made]

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def identity(seed: int = 0, version: str = "1", tasks: list[Task] = TASKS) -> dict[str, object]:
    return demonstrations_identity(EnvRef("e", version=version), tasks, {"oracle": 1.0}, 2, seed)


async def test_two_runs_at_once_end_with_the_same_demonstrations(tmp_path: Path) -> None:
    slow, fast = Two(), Two()
    slow.ready.clear()
    waiting = asyncio.create_task(kept(tmp_path, identity(), slow, 2, LABELS))
    await asyncio.sleep(0)
    first = await kept(tmp_path, identity(), fast, 2, LABELS)
    slow.ready.set()
    second = await waiting
    assert [g.group_id for g in first] == [g.group_id for g in second] == ["demo-0", "demo-1"]
    assert {t.labels for g in second for t in g.trajectories} == {Labels("copy", mode="demonstration")}
    (place,) = tmp_path.iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["identity.json", "trajectories.jsonl"]


async def test_other_seeds_versions_and_tasks_are_other_demonstrations(tmp_path: Path) -> None:
    source = Two()
    others = [identity(), identity(seed=1), identity(version="2"), identity(tasks=[Task("t", data={"n": 2})])]
    for one in (*others, *others):
        await kept(tmp_path, one, source, 2, LABELS)
    assert (source.taken, len(list(tmp_path.iterdir()))) == (4, 4)


async def test_what_is_not_whole_or_somebody_elses_is_refused(tmp_path: Path) -> None:
    await kept(tmp_path, identity(), Two(), 2, LABELS)
    (store,) = tmp_path.glob("*/trajectories.jsonl")
    store.write_bytes(store.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(StoreError, match="holds 1 of 2 demonstrations: remove it"):
        await kept(tmp_path, identity(), Two(), 2, LABELS)
    store.rename(store.with_name("mine.txt"))
    with pytest.raises(ConfigError, match="holds something already"):
        await kept(tmp_path, identity(), Two(), 2, LABELS)
