"""The table of doors: what is green, what fails and says so, and what is not installed."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.conform import doors, files
from agentrl.conform.conform import conform
from agentrl.conform.doors import Job
from agentrl.conform.episodes import episode_hash, played
from agentrl.conform.report import ConformReport, Door
from agentrl.env import registry
from agentrl.errors import ConfigError, PackageMissing
from agentrl.trajectory import EnvRef, Labels

SHOP = "agentrl/Shop-v0"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    episodes = asyncio.run(played(registry.make(SHOP), 2))
    return Job(registry.reference(SHOP), episodes, tmp_path_factory.mktemp("conform"))


def test_pooled_and_served_episodes_have_the_hashes_of_local_ones(job: Job) -> None:
    for door in (doors.pooled(job), doors.served(job)):
        assert door.outcome == "green", door.detail
        assert door.hashes == job.hashes
    assert len(set(job.hashes)) == 2


def test_a_hash_is_of_the_episode_not_of_its_names(job: Job) -> None:
    episode = job.episodes[0]
    renamed = replace(episode, episode_id="other", group_id="g", labels=Labels("eval", 3))
    assert episode_hash(renamed) == episode_hash(episode)
    for changed in (replace(episode, seed=1), replace(episode, info={}), replace(episode, turns=episode.turns[:-1])):
        assert episode_hash(changed) != episode_hash(episode)


def test_an_episode_that_differs_fails_the_door(job: Job) -> None:
    other = replace(job, episodes=[job.episodes[0], replace(job.episodes[1], info={"success": True})])
    found = doors.served(other)
    assert found.outcome == "failed"
    assert "1 of 2 episodes differ, the first is number 1" in found.detail


def test_a_package_that_is_not_here_is_named(job: Job) -> None:
    with pytest.raises(PackageMissing, match="no_such_package"):
        doors.run_client(job, "no_such_package", "readers.py", "atif", "x")


def test_a_client_that_fails_says_how(job: Job) -> None:
    here = replace(job, pythons={"json": sys.executable})
    with pytest.raises(RuntimeError, match="KeyError"):
        doors.run_client(here, "json", "readers.py", "nothing", "x")


def test_tasks_that_are_no_folders_do_not_apply(job: Job) -> None:
    assert files.harbor(job).outcome == "does not apply"


def test_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Job) -> Door:
        raise ValueError("it is broken")

    def missing(job: Job) -> Door:
        raise PackageMissing("mcp")

    def fine(job: Job) -> Door:
        return Door("another name", "green", "all equal")

    seen: list[str] = []
    chosen: Any = {"fine": fine, "broken": broken, "missing": missing}
    monkeypatch.setattr("agentrl.conform.conform.DOORS", chosen)
    report = conform(EnvRef(SHOP), episodes=1, on_door=lambda door: seen.append(door.name))
    assert [door.outcome for door in report.doors] == ["green", "failed", "not run"]
    assert not report.ok
    assert [door.name for door in conform(EnvRef(SHOP), episodes=1, only=["fine"]).doors] == ["fine"]
    with pytest.raises(ConfigError, match="there is no door 'other'; there is fine, broken, missing"):
        conform(EnvRef(SHOP), only=["other"])
    assert seen == ["fine", "broken", "missing"]
    assert "pip install 'agentrl[mcp]'" in report.to_text()
    assert report.to_json()["doors"][1]["detail"] == "ValueError: it is broken"
    assert ConformReport("x", 1, report.doors[::2]).ok


def test_clients_import_nothing_of_ours() -> None:
    for path in (Path(doors.__file__).parent / "clients").glob("*.py"):
        assert "import agentrl" not in path.read_text()
        assert "from agentrl" not in path.read_text()
