"""The generalisation matrix: values worked by hand, what is compared with what, and how it is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentrl.bench.arms import ArmRuns, compare_arms
from agentrl.bench.estimates import clustered_proportion
from agentrl.bench.generalisation import (
    EnvironmentRun,
    forgetting,
    generalisation,
    share_of_gain,
    success_over_seeds,
)
from agentrl.bench.views.arms import render_arms, write_arms
from agentrl.messages import Action
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Mode, Task, Trajectory, Turn
from tests.endings import ENDINGS

MODES: tuple[Mode, ...] = ("greedy", "sampled")
Of = Mapping[str, Sequence[float]]


def outcomes(values: Sequence[float], name: str = "a") -> dict[str, list[float]]:
    return {f"{name}/t{number}": [value] for number, value in enumerate(values)}


def stage(of: Of, trained: Sequence[str]) -> dict[str, Any]:
    """A table of an evaluating stage, with the same outcomes in both modes."""
    tasks = {task: values for name, own in of.items() for task, values in outcomes(own, name).items()}
    environments = {name: {"trains": name in trained, "env": {"id": name}} for name in of}
    return {"outcomes": dict.fromkeys(MODES, tasks), "environments": environments}


def run(trained: Sequence[str], *evaluations: Of) -> EnvironmentRun:
    stages = {f"stage-{number}": stage(of, trained) for number, of in enumerate(evaluations)}
    found = EnvironmentRun.of({"stages": {"learn": {}, **stages}})
    assert found is not None
    return found


MAIN = run(
    ["a", "b"],
    {"a": [0, 0, 0, 1], "b": [1, 1, 0, 0], "c": [0, 1, 0, 1]},
    {"a": [1, 1, 0, 1], "b": [1] * 4, "c": [0] * 4},
)
ALONE = run(["a"], {"a": [0, 0, 0, 0], "b": [0] * 4, "c": [0] * 4}, {"a": [1] * 4, "b": [0, 0, 0, 1], "c": [0] * 4})


def test_the_matrix_by_hand() -> None:
    found = generalisation({"main": {0: MAIN}, "alone-a": {0: ALONE}, "none": {}}, MODES)
    assert found is not None
    assert found.environments == ["a", "b", "c"]
    assert found.held_out == ["c"]
    rows = {row.arm: row for row in found.rows if row.mode == "sampled"}
    means = {arm: {name: cell.success.mean for name, cell in row.cells.items()} for arm, row in rows.items()}
    assert means == {"main": {"a": 0.75, "b": 1.0, "c": 0.0}, "alone-a": {"a": 1.0, "b": 0.25, "c": 0.0}}
    assert [cell.trained for cell in rows["alone-a"].cells.values()] == [True, False, False]
    cells = rows["main"].cells
    assert (cells["a"].gain.mean, cells["a"].forgetting.mean) == (0.5, -0.5)
    assert (cells["c"].gain.mean, cells["c"].forgetting.mean) == (-0.5, 0.5)
    assert (cells["a"].success.low, cells["a"].success.high) == clustered_proportion([[1.0]] * 3 + [[0.0]]).ci95
    over = rows["main"].over
    assert over["all"].mean.mean == pytest.approx((0.75 + 1 + 0) / 3)
    assert (over["trained"].mean.mean, over["trained"].lowest) == (0.875, "a")
    assert (over["held_out"].mean.mean, over["held_out"].lowest) == (0.0, "c")
    assert json.loads(json.dumps(found.to_json()))["rows"][0]["cells"]["a"]["success"]["mean"] == 0.75


def test_the_main_arm_against_one_environment_alone() -> None:
    without_b = run(["a"], {"a": [1] * 4, "b": [1] * 4, "c": [1] * 4})
    found = generalisation({"main": {0: MAIN}, "alone-a": {0: ALONE}, "two": {0: MAIN}, "short": {0: without_b}}, MODES)
    assert found is not None
    alone = [one for one in found.alone if one.mode == "greedy"]
    assert [(one.env, one.arm) for one in alone] == [("a", "alone-a"), ("a", "short")]
    assert alone[0].difference.mean == -0.25
    assert alone[0].of_success.mean == pytest.approx(0.75)
    assert alone[0].of_gain.mean == pytest.approx(0.5 / 1.0)
    assert alone[1].of_gain is None, "it was evaluated once"


def test_seeds_are_paired_and_only_shared_ones_count() -> None:
    other = run(["a", "b"], {"a": [0] * 4, "b": [0] * 4, "c": [0] * 4}, {"a": [0] * 4, "b": [1] * 4, "c": [0] * 4})
    found = generalisation({"main": {0: MAIN, 1: other}, "alone-a": {1: ALONE, 2: MAIN}}, MODES)
    assert found is not None
    assert found.rows[0].cells["a"].success.mean == pytest.approx((0.75 + 0.0) / 2)
    (one,) = (one for one in found.alone if one.mode == "greedy")
    assert one.difference.mean == pytest.approx(0.0 - 1.0)


def test_forgetting_takes_the_best_of_the_evaluations_before_the_last() -> None:
    three = run(["a"], {"a": [0, 0, 0, 1]}, {"a": [1, 1, 1, 1]}, {"a": [1, 1, 0, 0]})
    found = generalisation({"main": {0: three}}, ("greedy",))
    assert found is not None
    cell = found.rows[0].cells["a"]
    assert (cell.gain.mean, cell.forgetting.mean) == (0.25, 0.5)
    assert forgetting([outcomes([1, 0])], [outcomes([1, 1])]).mean == -0.5


def test_a_share_of_a_gain_is_a_ratio_of_rates_with_an_interval_of_tasks_and_seeds() -> None:
    after = [outcomes([1, 1, 0, 1] * 10), outcomes([1, 0, 1, 1] * 10)]
    zero, one = [outcomes([0.0] * 40)] * 2, [outcomes([1.0] * 40)] * 2
    found = share_of_gain(after, zero, one, zero)
    assert found.mean == pytest.approx(0.75)
    assert found.low < 0.75 < found.high
    assert math.isnan(share_of_gain(after, zero, zero, zero).mean)


def test_the_interval_of_success_knows_that_seeds_differ() -> None:
    alike = success_over_seeds([outcomes([1, 0] * 20)] * 3)
    apart = success_over_seeds([outcomes([1] * 40), outcomes([0] * 40), outcomes([1, 0] * 20)])
    assert alike.mean == apart.mean == 0.5
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)
    perfect = success_over_seeds([outcomes([1] * 40)] * 2)
    assert (perfect.mean, perfect.high) == (1.0, 1.0)
    assert 0.9 < perfect.low < 1


def test_losing_episodes_that_are_gone_count_in_the_matrix() -> None:
    table = stage({"a": [1, 1], "b": [1, 1]}, ["a"])
    lost = {**table["outcomes"]["greedy"], "b/lost": [0.0], "b/lost too": [0.0]}
    found = EnvironmentRun.of({"stages": {"after": {**table, "outcomes_of_attempted": dict.fromkeys(MODES, lost)}}})
    assert found is not None
    matrix = generalisation({"main": {0: found}}, MODES)
    assert matrix is not None
    assert matrix.rows[0].cells["a"].success.mean == 1
    assert matrix.rows[0].cells["b"].success.mean == 0.5


def test_one_environment_has_no_matrix() -> None:
    assert EnvironmentRun.of({"stages": {"after": {"outcomes": dict.fromkeys(MODES, outcomes([1]))}}}) is None
    assert generalisation({"main": {}}, MODES) is None


def arm(folder: Path, trained: Sequence[str], *evaluations: Of) -> ArmRuns:
    """The finished run of an arm; its last evaluation is also in its store."""
    path = folder / "seed-0"
    path.mkdir(parents=True)
    with TrajectoryStore(path / "trajectories.jsonl") as store:
        for mode, (name, values) in product(MODES, evaluations[-1].items()):
            for number, value in enumerate(values):
                turn, labels = Turn((), Action(text="x"), reward=value), Labels(f"at-{len(evaluations) - 1}", 1, mode)
                task, ending = Task(f"t{number}"), ENDINGS["terminated"]
                store.append(Trajectory(EnvRef(name), task, 0, [turn], ending=ending, labels=labels))
    stages = {f"at-{number}": stage(of, trained) for number, of in enumerate(evaluations)}
    (path / "summary.json").write_text(json.dumps({"stages": stages, "cost": {"cpu_s": 1.0, "tokens": {}}}))
    return ArmRuns(folder.name, "", {0: path})


def test_the_report_of_arms_shows_the_matrix(tmp_path: Path) -> None:
    before, after = {"a": [0, 1] * 10, "b": [0, 1] * 10}, {"a": [1] * 20, "b": [1, 0] * 10}
    arms = [arm(tmp_path / "main", ["a"], before, after), arm(tmp_path / "other", ["a", "b"], before, after)]
    found = compare_arms(arms)
    console = Console(width=60, record=True)
    console.print(render_arms(found))
    text = console.export_text()
    assert "b*" in text
    assert "[0.50]" in text
    assert "…" not in text
    write_arms(tmp_path, found)
    assert json.loads((tmp_path / "arms.json").read_text())["generalisation"]["held_out"] == ["b"]
    page = (tmp_path / "arms.html").read_text()
    assert page.count("trained on rows, tested on columns") == 2
    assert "<th>b*</th>" in page
