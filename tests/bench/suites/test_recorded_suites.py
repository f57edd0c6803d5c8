"""Suites on disk: scored again without a model, and shown in the page of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.bench.suites.recorded import read_suite
from agentrl.bench.suites.rescoring import rescore_suite
from agentrl.bench.suites.suite import load_suite, run_suite
from agentrl.bench.views.report.page import write_bench_report
from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.trajectory import Trajectory

SUITE = """
[envs.guess]
id = "agentrl/Guess-v0"
num_tasks = 4
weight = 3.0
[envs.sums]
id = "agentrl/Calculator-v0"
num_tasks = 3
"""


def nothing_for_sums(episode: Trajectory) -> float:
    """A rubric under which Calculator is worth nothing."""
    return 0.0 if episode.env.id == "agentrl/Calculator-v0" else 1.0


@pytest.fixture
def played(tmp_path: Path) -> Path:
    (tmp_path / "suite.toml").write_text(SUITE)
    run_suite(load_suite(tmp_path / "suite.toml"), "oracle", tmp_path / "runs")
    return tmp_path / "runs"


def test_every_environment_is_scored_again_and_the_old_suite_stays(played: Path) -> None:
    before = {path: path.read_bytes() for path in played.rglob("*") if path.is_file()}
    found = rescore_suite(played, rubric=nothing_for_sums)
    assert {name: len(one.changed) for name, one in found.envs.items()} == {"guess": 0, "sums": 3}
    assert found.result.mean is not None
    assert found.result.mean.mean == pytest.approx(0.75)  # guess 1.0 with weight 3, sums 0.0 with weight 1
    new = played.with_name("runs-rescored")
    assert json.loads((new / "suite.json").read_text())["mean"]["mean"] == pytest.approx(0.75)
    assert read_suite(new).played.keys() == {"guess", "sums"}
    assert {path: path.read_bytes() for path in before} == before


def test_an_environment_that_cannot_be_scored_is_named_and_the_others_are_scored(played: Path, tmp_path: Path) -> None:
    (played / "sums" / "summary.json").unlink()
    answer = CliRunner().invoke(main, ["rescore", str(played), "--out", str(tmp_path / "new"), "--json"])
    assert answer.exit_code == 1
    found = json.loads(answer.stdout)
    assert found["errors"] == {"sums": "it was not played"}
    assert found["mean"] is None
    assert found["envs"]["guess"]["changed"] == []


def test_options_of_one_environment_are_refused(played: Path) -> None:
    answer = CliRunner().invoke(main, ["rescore", str(played), "--env", "agentrl/Guess-v0"])
    assert answer.exit_code == 2
    assert "--env goes with one benchmark" in answer.stderr


def test_a_folder_with_files_is_not_written_into(played: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty"):
        rescore_suite(played, played)
    assert not (tmp_path / "runs-rescored").exists()


def test_a_report_of_two_suites_holds_every_environment_and_the_means(played: Path, tmp_path: Path) -> None:
    rescore_suite(played, tmp_path / "other", rubric=nothing_for_sums)
    page = write_bench_report([played, tmp_path / "other"], tmp_path / "both.html").read_text()
    assert "<h2>Suites</h2>" in page
    for name in ("runs/guess", "runs/sums", "other/guess", "other/sums"):
        assert name in page
    table = page[page.index("<h2>Suites</h2>") : page.index("<h2>Success</h2>")]
    assert "<th>runs</th><th>other</th>" in table
    mean = table[table.index("weighted mean") :]
    assert "100.0%" in mean
    assert "75.0%" in mean


def test_a_suite_that_misses_an_environment_has_no_mean_in_the_report(played: Path, tmp_path: Path) -> None:
    (played / "sums" / "summary.json").unlink()
    page = write_bench_report([played], tmp_path / "one.html").read_text()
    assert "not played" in page
    assert "an environment is missing" in page


def test_a_broken_file_of_a_suite_says_so(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('{"weights": 3}')
    answer = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert answer.exit_code == 1
    assert "suite.json cannot be read" in answer.stderr


def test_the_page_of_a_comparison_of_suites_holds_each_difference(played: Path, tmp_path: Path) -> None:
    rescore_suite(played, tmp_path / "other", rubric=nothing_for_sums)
    page = tmp_path / "both.html"
    given = ["compare", str(played), str(tmp_path / "other"), "--report"]
    answer = CliRunner().invoke(main, [*given, str(page)])
    assert answer.exit_code == 0, answer.output
    for env in ("agentrl/Guess-v0", "agentrl/Calculator-v0"):
        assert f"oracle minus oracle on {env}" in page.read_text()
    picture = CliRunner().invoke(main, [*given, str(tmp_path / "both.svg")])
    assert (picture.exit_code, "of one environment" in picture.stderr) == (2, True)
