"""Which episodes of a store are data: filters, held-out tasks, what is never data, changed files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Action, Message
from agentrl.rollout.sources.chat_file import chat_of
from agentrl.rollout.sources.recorded import Recorded, check_digest, digest_of
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn


def episode(name: str, reward: float, task: str = "t", split: str = "train", **fields: Any) -> Trajectory:
    turn = Turn((Message("user", "hi"),), Action("x"), reward)
    given = {"ending": Ending("answer"), "labels": Labels("rl", 1), **fields}
    return Trajectory(EnvRef("e"), Task(task, split), 0, [turn], episode_id=name, **given)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        store.append(episode("low", 0.25))
        store.append(episode("best", 1.0))
        store.append(episode("good", 0.75))
        store.append(episode("other", 0.5, "u"))
        store.append(episode("warm", 1.0, labels=Labels("warm_start", mode="demonstration")))
        store.append(episode("gone", 1.0, labels=Labels("rl", superseded=True)))
        store.append(episode("broken", 1.0, ending=Ending("fault", "down")))
        store.append(episode("held out", 1.0, "v", "eval"))
    return tmp_path


def names(recorded: Recorded) -> list[str]:
    return [found.episode_id for found in recorded.read()]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["low", "best", "good", "other", "warm"]),
        ({"stage": "rl"}, ["low", "best", "good", "other"]),
        ({"success": True}, ["best", "warm"]),
        ({"min_reward": 0.5}, ["best", "good", "other", "warm"]),
        ({"stage": "rl", "per_task": 2}, ["best", "good", "other"]),
        ({"stage": "rl", "per_task": 1}, ["best", "other"]),
        ({"split": "eval"}, ["held out"]),
    ],
)
def test_what_is_chosen(run: Path, chosen: dict[str, Any], expected: list[str]) -> None:
    assert names(Recorded(str(run), **chosen)) == expected
    assert names(Recorded(str(run / "trajectories.jsonl"), **chosen)) == expected


def test_what_was_sampled_is_labelled_a_demonstration_so_that_its_ids_are_proved(run: Path) -> None:
    assert {found.labels.mode for found in Recorded(str(run)).read()} == {"demonstration"}


@pytest.mark.parametrize(
    ("chosen", "reasons"),
    [
        ({"stage": "before"}, "holds 8 episodes, and none of them can be used: 5 of the stage 'rl', 1 of the stage"),
        ({"split": "dev"}, "5 of tasks of the split 'train', which split = 'train' takes"),
        ({"min_reward": 2.0}, "5 rewarded below 2, 2 discarded, 1 of tasks of the split 'eval'"),
    ],
)
def test_nothing_to_read_is_refused_with_each_reason(run: Path, chosen: dict[str, Any], reasons: str) -> None:
    with pytest.raises(StoreError, match=reasons):
        Recorded(str(run), **chosen).read()
    with pytest.raises(ConfigError, match=r"stages\.copy\.data\[0\]: .*none of them can be used"):
        Recorded(str(run), **chosen).check("stages.copy.data[0]")


def test_imported_chats_without_a_reward_do_not_count_as_failures(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        store.append(
            chat_of('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}', 1)
        )
    assert names(Recorded(str(tmp_path))) == ["line-1"]
    for wanted in (Recorded(str(tmp_path), success=True), Recorded(str(tmp_path), min_reward=0.0)):
        with pytest.raises(StoreError, match="1 imported without a reward"):
            wanted.read()


def test_data_that_changed_are_refused(run: Path) -> None:
    files = [run / "trajectories.jsonl"]
    before = digest_of(files)
    check_digest(before, digest_of(files), files)
    with TrajectoryStore(files[0]) as store:
        store.append(episode("new", 1.0))
    with pytest.raises(ConfigError, match=r"trajectories.jsonl has changed. Put it back to resume"):
        check_digest(before, digest_of(files), files)
