"""The definitions of tools stand once in a store, and every reader finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import StoreError
from agentrl.rollout.records import trajectory_from_json, trajectory_record
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory


def tools(name: str) -> list[dict[str, Any]]:
    function = {"name": name, "description": "What it does. " * 50, "parameters": {"type": "object"}}
    return [{"type": "function", "function": function}]


def episode(number: int, shown: list[dict[str, Any]]) -> Trajectory:
    return Trajectory(EnvRef("e"), Task(f"t{number}"), number, labels=Labels("rl", number), tools=shown)


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    """Five episodes with the tools a, b, a, none, b."""
    made = TrajectoryStore(tmp_path / "trajectories.jsonl")
    for number, shown in enumerate([tools("a"), tools("b"), tools("a"), [], tools("b")]):
        made.append(episode(number, shown))
    return made


def lines(store: TrajectoryStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.path.read_text().splitlines()]


def test_definitions_stand_in_the_first_line_that_has_them(store: TrajectoryStore) -> None:
    stored = [line["tools"] for line in lines(store)]
    assert stored[:2] == [tools("a"), tools("b")]
    assert stored[2:] == [lines(store)[0]["tools_name"], [], lines(store)[1]["tools_name"]]
    assert [t.tools for t in store] == [tools("a"), tools("b"), tools("a"), [], tools("b")]
    first, _, third, *_ = store
    assert first.tools is third.tools  # read once, too


def test_a_line_is_read_without_those_before_it(store: TrajectoryStore) -> None:
    assert [(n, t.tools) for n, t in store.numbered(lines={3, 5})] == [(3, tools("a")), (5, tools("b"))]


def test_a_process_that_goes_on_and_a_store_that_was_cut_write_them_again(store: TrajectoryStore) -> None:
    position = store.position
    store.append(episode(5, tools("c")))
    store.rewind(position)
    store.append(episode(6, tools("c")))
    store.close()
    store.append(episode(7, tools("c")))
    assert [type(line["tools"]) for line in lines(store)[-2:]] == [list, list]
    assert [t.tools for t in store][-2:] == [tools("c")] * 2


def test_a_full_disk_leaves_no_name_without_definitions(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(StoreError, match="the disk is full"):
            store.append(episode(8, tools("d")))
    store.append(episode(8, tools("d")))
    assert [t.tools for t in store][-1] == tools("d")


def test_definitions_that_are_gone_are_named(store: TrajectoryStore) -> None:
    name = lines(store)[0]["tools_name"]
    store.path.write_text("".join(store.path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(StoreError, match=f"line 2: .*names the tools {name}, and the line that defines them is gone"):
        list(store)


def test_a_line_alone_says_what_it_lacks(store: TrajectoryStore) -> None:
    with pytest.raises(ValueError, match="stand in an earlier line of its store"):
        trajectory_from_json(lines(store)[2])


def test_format_2_with_definitions_in_every_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    with path.open("w") as file:
        for number in range(3):
            record = trajectory_record(episode(number, tools("a")))
            fields = {name: getattr(record, name) for name in record.__struct_fields__ if name != "tools_name"}
            line = {**fields, "format": 2, "env": {"id": "e"}, "task": {"id": f"t{number}"}, "labels": {}, "ending": {}}
            file.write(json.dumps(line) + "\n")
    with TrajectoryStore(path) as store:
        store.append(episode(3, tools("a")))
    assert [t.tools for t in store] == [tools("a")] * 4
    assert [t.seed for t in store] == [0, 1, 2, 3]
