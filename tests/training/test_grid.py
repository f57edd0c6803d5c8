"""Many runs: what they are called, that a failing one stops no other, that the same call goes on, and the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.config import dump_config, load_config
from agentrl.errors import ConfigError
from agentrl.training.grid import GridResult, GridRun, grid_table, plan_grid, run_grid
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig
from tests.training.test_preflight import CONFIG

SMALL = replace(CONFIG, env=EnvConfig("tests.training.test_preflight:Ask"))


def plan(tmp_path: Path, seeds: list[int], *grid: str) -> list[GridRun]:
    (tmp_path / "c.toml").write_text(dump_config(SMALL))
    return plan_grid(lambda more: load_config(TrainConfig, tmp_path / "c.toml", more), tmp_path / "out", seeds, grid)


def test_every_combination_has_its_folder_and_configuration(tmp_path: Path) -> None:
    runs = plan(tmp_path, [0, 7], "stages.rl.steps=1,2", "sampling.max_tokens=3,4")
    assert len({run.folder for run in runs}) == len(runs) == 8
    last = runs[-1]
    assert last.cell == "stages.rl.steps=2 sampling.max_tokens=4"
    assert last.folder == tmp_path / "out" / "stages.rl.steps=2_sampling.max_tokens=4" / "seed-7"
    assert (last.config.seed, last.config.sampling.max_tokens) == (7, 4)


@pytest.mark.parametrize(
    ("seeds", "grid", "message"),
    [
        ([0, 0], [], "each seed once"),
        ([0], ["stages.rl.steps"], "write KEY=VALUE"),
        ([0], ["stages.rl.steps=1,1"], "different values"),
        ([0], ["stages.rl.steps=1", "stages.rl.steps=2"], "names a key twice"),
        ([0], ["stages.rl.stepz=1"], "stepz"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_begins(
    tmp_path: Path, seeds: list[int], grid: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, seeds, *grid)
    assert not (tmp_path / "out").exists()


def test_a_failing_run_stops_no_other_and_the_same_call_goes_on(tmp_path: Path) -> None:
    runs = plan(tmp_path, [0], "env.eval_split=none,eval")  # the first has no held-out tasks
    results = run_grid(runs, jobs=1)
    assert [result.summary is None for result in results] == [True, False]
    assert "none" in Path(runs[0].folder.with_name("seed-0.log")).read_text()
    assert "exit code" in results[0].error
    written = (runs[1].folder / "summary.json").stat().st_mtime_ns
    seen: list[GridResult] = []
    run_grid(runs[1:], on_result=seen.append)
    assert (runs[1].folder / "summary.json").stat().st_mtime_ns == written
    assert [result.run for result in seen] == runs[1:]
    other = [replace(runs[1], config=replace(runs[1].config, seed=5))]
    with pytest.raises(ConfigError, match="another configuration"):
        run_grid(other)


def test_the_table_has_student_s_interval_over_seeds(tmp_path: Path) -> None:
    run = GridRun("all", SMALL, tmp_path / "run")
    summaries = [{"after": {"greedy": {"mean": mean}, "sampled": {"mean": None}}} for mean in (0.2, 0.4, 0.6)]
    results = [*(GridResult(run, summary) for summary in summaries), GridResult(run, None, "exit code 1: no")]
    [row] = grid_table(results)
    # t(0.975, 2) = 4.3027, standard error 0.2 / sqrt(3).
    assert row["greedy"]["mean"] == pytest.approx(0.4)
    assert row["greedy"]["ci95"] == pytest.approx([0.4 - 4.3027 * 0.2 / 3**0.5, 0.4 + 4.3027 * 0.2 / 3**0.5], abs=1e-4)
    assert row["sampled"] is None
    assert [failed["error"] for failed in row["failed"]] == ["exit code 1: no"]


def test_the_command_refuses_what_contradicts_itself(tmp_path: Path) -> None:
    for words, message in (
        (["--jobs", "1", "x.toml"], "give one of those"),
        (["--seeds", "0", "--fresh", "x.toml"], "no --resume"),
        (["--seeds", "a", "x.toml"], "whole numbers"),
        (["--seeds", "0"], "need a CONFIG"),
    ):
        result = CliRunner().invoke(main, ["train", *words])
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())
