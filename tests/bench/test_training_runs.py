"""Training runs next to each other: which are one setting, what is compared, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentrl.bench.estimates import paired_over_seeds
from agentrl.bench.training_runs import compare_runs
from agentrl.bench.views.training_runs import render_runs
from agentrl.errors import ConfigError

TASKS = [f"eval-{i}" for i in range(6)]
MARKS = {task: f"mark of {task}" for task in TASKS}


def outcomes(values: list[float], tasks: list[str] = TASKS) -> dict[str, Any]:
    table = {task: [value] for task, value in zip(tasks, values, strict=True)}
    return {"outcomes": {"greedy": table, "sampled": table}}


def write_run(
    path: Path,
    after: list[float],
    *,
    before: list[float] | None = None,
    seed: int = 0,
    lr: float = 1e-3,
    tasks: list[str] = TASKS,
    marks: dict[str, str] = MARKS,
    env: str = "test/Desk-v0",
) -> Path:
    """A finished run's folder, as far as it is compared."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text(f'seed = {seed}\n[env]\nid = "{env}"\n[stages.rl.learner]\nlr = {lr}\n')
    made_of = {
        "env": {"id": env, "kwargs": {}, "limits": {}, "version": "1"},
        "splits": {"eval": {"count": len(marks), "fingerprint": "f", "tasks": marks}},
    }
    (path / "identity.json").write_text(json.dumps({"environments": [made_of]}))
    stages = {"before": outcomes(before, tasks)} if before else {}
    summary = {"seed": seed, "stages": {**stages, "rl": {}, "after": outcomes(after, tasks)}}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def test_before_and_after_of_one_run(tmp_path: Path) -> None:
    found = compare_runs([write_run(tmp_path / "run", [1, 1, 1, 1, 1, 0], before=[1, 0, 0, 0, 0, 0])])
    greedy, sampled = found.rows
    assert (greedy.mode, sampled.mode, found.n_tasks) == ("greedy", "sampled", 6)
    assert greedy.before is not None
    assert greedy.change is not None
    assert (greedy.before.mean, greedy.after.mean) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert greedy.change.mean == pytest.approx(4 / 6)
    assert greedy.change.low > 0
    assert greedy.against_first is None
    assert any("one seed" in note for note in found.notes)


def test_runs_of_a_grid_are_pooled_by_setting_and_compared_with_the_first(tmp_path: Path) -> None:
    results = {("low", 1e-3): ([1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]), ("top", 2e-3): ([1] * 6, [1, 1, 1, 1, 1, 0])}
    for (cell, lr), of_seeds in results.items():
        for seed, after in enumerate(of_seeds):
            write_run(tmp_path / "grid" / cell / f"seed-{seed}", after, before=[0] * 6, seed=seed, lr=lr)
    found = compare_runs([tmp_path / "grid"])
    low, top = (row for row in found.rows if row.mode == "sampled")
    assert (low.setting.seeds, top.setting.seeds) == ([0, 1], [0, 1])
    assert (low.setting.differs, top.setting.differs) == (
        {"stages.rl.learner.lr": 1e-3},
        {"stages.rl.learner.lr": 2e-3},
    )
    assert low.after.mean == pytest.approx(3 / 12)
    assert top.against_first == paired_over_seeds(
        top.setting.after("sampled"), low.setting.after("sampled"), same_seeds=True
    )
    assert top.against_first.mean == pytest.approx(8 / 12)
    assert compare_runs([tmp_path / "grid" / "low", tmp_path / "grid" / "top"]).to_json() == found.to_json()


def test_only_tasks_that_every_run_reports_count(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", [1] * 6)
    second = write_run(tmp_path / "b", [0, 0, 1, 1], lr=2e-3, tasks=TASKS[:4])
    found = compare_runs([first, second])
    assert found.n_tasks == 4
    assert found.rows[1].against_first is not None
    assert found.rows[1].against_first.mean == -0.5
    assert found.rows[1].before is found.rows[1].change is None
    assert any("2 tasks" in note for note in found.notes)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [1] * 6)
    others = {
        "no held-out task in common": {"tasks": [f"other-{i}" for i in range(6)]},
        "had other content": {"marks": {**MARKS, "eval-3": "edited"}},
        "was measured on test/Desk-v0": {"env": "test/Counter-v0"},
        "same settings and seed": {},
    }
    for number, (message, changes) in enumerate(others.items()):
        other = write_run(tmp_path / f"b{number}", [1] * 6, **changes)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=message):
            compare_runs([run, other])
    with pytest.raises(ConfigError, match="is no training run and holds none"):
        compare_runs([tmp_path / "absent"])


def test_a_run_that_is_not_finished_is_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "cell" / f"seed-{seed}", [1] * 6, seed=seed)
    (tmp_path / "cell" / "seed-1" / "summary.json").unlink()
    found = compare_runs([tmp_path / "cell"])
    assert found.rows[0].setting.seeds == [0]
    assert any("seed-1 is not finished" in note for note in found.notes)
    with pytest.raises(ConfigError, match="agentrl train --resume"):
        compare_runs([tmp_path / "cell" / "seed-1"])


def test_a_run_without_outcomes_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [1] * 6)
    (run / "summary.json").write_text(json.dumps({"seed": 0, "stages": {"rl": {}}}))
    with pytest.raises(ConfigError, match="a stage of kind evaluate"):
        compare_runs([run])
    (run / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match="is no training run of this version"):
        compare_runs([run])


def test_a_run_that_loses_its_failures_is_not_the_better_one(tmp_path: Path) -> None:
    """Every task that one of them lost would be missing on both sides, and no number would show it."""
    honest = write_run(tmp_path / "honest", [1, 1, 1, 0, 0, 0], lr=1e-3)
    voids = write_run(tmp_path / "voids", [1, 1, 1, 0, 0, 0], lr=2e-3)
    path = voids / "summary.json"
    summary = json.loads(path.read_text())
    after = summary["stages"]["after"]
    attempted, left = after["outcomes"], dict(list(after["outcomes"]["greedy"].items())[:3])
    summary["stages"]["after"] = {
        "outcomes": {"greedy": left, "sampled": left},
        "outcomes_of_attempted": attempted,
        "greedy": {"discarded": {"server": 3}, "n_discarded_after_actions": 3},
        "sampled": {"discarded": {"server": 3}, "n_discarded_after_actions": 1},
    }
    path.write_text(json.dumps(summary))
    found = compare_runs([honest, voids])
    row = next(row for row in found.rows if row.against_first is not None)
    assert (found.n_tasks, row.after.mean) == (3, 1.0)
    assert row.against_first_attempted is not None
    assert row.against_first_attempted.mean == 0.0
    assert row.against_first_attempted.n == 6
    (warning,) = found.warnings
    assert warning.startswith(f"4 held-out episodes of {voids} were discarded after the model had acted")
    assert any("6 held-out episodes were discarded" in note for note in found.notes)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_runs(found))
    shown = console.export_text()
    assert "with discarded episodes as failures: minus the first" in shown
    assert "warning: 4 held-out episodes" in shown
    assert json.loads(json.dumps(found.to_json()))["warnings"] == [warning]


def test_runs_without_discarded_episodes_have_no_second_number(tmp_path: Path) -> None:
    found = compare_runs([write_run(tmp_path / "run", [1, 1, 1, 0, 0, 0], before=[0] * 6)])
    assert found.warnings == []
    assert all(row.change_attempted is None for row in found.rows)
