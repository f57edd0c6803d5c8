"""Arms next to each other: which episodes count, what a reader is told, and intervals that stay within a share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.bench.arms import ArmRuns, compare_arms
from agentrl.errors import ConfigError
from agentrl.messages import Action
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Mode, Task, Trajectory, Turn
from tests.endings import ENDINGS

MODES: tuple[Mode, ...] = ("greedy", "sampled")


def run_of(folder: Path, rewards: Mapping[str, Sequence[float | None]], measures: Sequence[str] = ()) -> Path:
    """A finished run whose last evaluation has these rewards by task; None is a discarded episode."""
    folder.mkdir(parents=True)
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for mode in MODES:
            for task, values in rewards.items():
                for value in values:
                    turn = Turn((), Action(text="x"), reward=value or 0.0)
                    ending = ENDINGS["fault" if value is None else "terminated"]
                    labels = Labels("after", 1, mode, attempt=1)
                    again = replace(labels, attempt=0, superseded=True)
                    lost = ENDINGS["fault"]
                    store.append(Trajectory(EnvRef("e"), Task(task), 0, [turn], ending=lost, labels=again))
                    store.append(Trajectory(EnvRef("e"), Task(task), 0, [turn], ending=ending, labels=labels))
    stages = {"rl": {}, "after": {"outcomes": {}, "measures": list(measures)}}
    cost = {"cpu_s": 10.0, "tokens": {"sampled": 7}}
    (folder / "summary.json").write_text(json.dumps({"stages": stages, "cost": cost}))
    return folder


def tasks(values: Sequence[float | None]) -> dict[str, Sequence[float | None]]:
    return {f"t{number}": [value] for number, value in enumerate(values)}


def test_differences_are_taken_on_shared_tasks_and_seeds(tmp_path: Path) -> None:
    main = {0: run_of(tmp_path / "a", tasks([1, 0, 1, 0])), 1: run_of(tmp_path / "b", tasks([1, 1, 0, 0]))}
    other = {0: run_of(tmp_path / "c", {**tasks([1, 1, 1, 0]), "t9": [0.0]})}
    found = compare_arms([ArmRuns("main", "", main), ArmRuns("other", "why", other)])
    rows = {(row.arm, row.mode): row for row in found.rows}
    assert rows["main", "sampled"].values["success"].mean == pytest.approx(0.5)
    assert rows["other", "sampled"].differences["success"].mean == pytest.approx(0.25)
    assert rows["other", "sampled"].seeds == [0]
    assert rows["other", "sampled"].cpu_s == 10.0
    assert any("one seed (other)" in note for note in found.notes)


def test_discarded_episodes_are_told(tmp_path: Path) -> None:
    main = {0: run_of(tmp_path / "a", tasks([1, 0]))}
    other = {0: run_of(tmp_path / "b", tasks([1, None]))}
    found = compare_arms([ArmRuns("main", "", main), ArmRuns("other", "", other)])
    assert found.notes[-1] == (
        "other: 2 of 4 episodes were discarded and count as failures of those attempted, 2 of them after the model had "
        "acted: do not trust a comparison of its success"
    )
    assert not any(note.startswith("main: ") for note in found.notes)


def test_an_arm_that_loses_its_failures_is_not_the_better_one(tmp_path: Path) -> None:
    main = {seed: run_of(tmp_path / f"a{seed}", tasks([1, 1, 0, 0])) for seed in (0, 1)}
    other = {seed: run_of(tmp_path / f"b{seed}", tasks([1, 1, None, None]), ["faults"]) for seed in (0, 1)}
    found = compare_arms([ArmRuns("voids", "", other), ArmRuns("honest", "", main)])
    assert list(found.units) == ["success", "success_of_attempted", "faults"]
    voids, honest = (row for row in found.rows if row.mode == "sampled")
    assert (voids.values["success"].mean, voids.values["success_of_attempted"].mean) == (1.0, 0.5)
    assert voids.values["faults"].mean == 0.5
    assert honest.differences["success_of_attempted"].mean == 0.0
    assert honest.differences["success_of_attempted"].n == 4
    alike = compare_arms([ArmRuns("main", "", main), ArmRuns("again", "", main)])
    assert list(alike.units) == ["success"]


def test_the_interval_of_a_share_stays_a_share(tmp_path: Path) -> None:
    runs = {
        seed: run_of(tmp_path / f"{seed}", tasks([1] * 19 + [seed % 2]), ["truncated", "reward"]) for seed in (0, 1)
    }
    again = {seed: run_of(tmp_path / f"x{seed}", tasks([0.0] * 20)) for seed in (0, 1)}
    found = compare_arms([ArmRuns("main", "", runs), ArmRuns("none", "", again)])
    for row in found.rows:
        for name, unit in found.units.items():
            for shown, least in ((row.values, 0.0), (row.differences, -1.0)):
                if name in shown and unit == "share" and abs(shown[name].low) != float("inf"):
                    assert least <= shown[name].low <= shown[name].mean <= shown[name].high <= 1.0


def test_without_a_finished_main_run_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run of the main arm is finished"):
        compare_arms([ArmRuns("main", "", {}), ArmRuns("other", "", {0: run_of(tmp_path / "a", tasks([1]))})])
