"""`agentrl compare`: the table, JSON, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.bench.runner import run_bench
from agentrl.cli import main
from agentrl.training.train import train
from tests.training.test_preflight import CONFIG


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """Two benchmarks: the oracle, and doing nothing."""
    for policy in ("oracle", "null"):
        run_bench("agentrl/Guess-v0", policy, out=tmp_path / policy, num_tasks=5, references=False)
    return str(tmp_path / "oracle"), str(tmp_path / "null")


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def test_two_folders(folders: tuple[str, str]) -> None:
    result = compare(*folders)
    assert result.exit_code == 0, result.output
    (row,) = [line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["difference"]]
    assert row == ["difference", "100.0%", "[38.6,", "100.0]"]


def test_the_json_form(folders: tuple[str, str]) -> None:
    found = json.loads(compare(folders[1], f"{folders[0]}/summary.json", "--json").stdout)
    assert found["difference"] == {"mean": -1.0, "ci95": [-1.0, pytest.approx(-0.3855, abs=1e-4)], "n": 5}
    assert found["difference_of_attempted"] == found["difference"]
    assert (found["first"]["policy"], found["second"]["policy"], found["measure"]) == ("null", "oracle", "success")
    assert (found["first"]["value"]["mean"], found["second"]["n_attempted"]) == (0.0, 5)
    assert (found["warnings"], found["notes"]) == ([], [])


def test_the_json_form_holds_the_tests(folders: tuple[str, str]) -> None:
    tests = json.loads(compare(*folders, "--json").stdout)["tests"]
    assert tests["p_value_exact"] == tests["p_value_mcnemar"] == pytest.approx(2 / 2**5)
    assert tests["p_value"] == tests["p_value_adjusted"] == pytest.approx(1 / 2**5)
    assert tests["noise_floor"] == [None, None]
    assert set(tests["tasks_needed"]) == {"0.01", "0.02", "0.05", "0.1"}


def test_several_are_compared_with_the_first_and_corrected_for_their_number(folders: tuple[str, str]) -> None:
    found = json.loads(compare(folders[0], folders[1], folders[1], "--json").stdout)["comparisons"]
    assert [one["tests"]["p_value"] for one in found] == [pytest.approx(1 / 2**5)] * 2
    assert [one["tests"]["p_value_adjusted"] for one in found] == [pytest.approx(2 / 2**5)] * 2
    shown = compare(folders[0], folders[1], folders[1]).stdout
    assert shown.count("corrected for several comparisons (Holm)") == 2
    assert compare(folders[0]).exit_code == 2


@pytest.mark.parametrize(("most", "code"), [("0.5", 1), ("1.0", 0)])
def test_a_drop_beyond_the_bound_fails(folders: tuple[str, str], most: str, code: int) -> None:
    result = compare(*folders, "--max-drop", most)
    assert result.exit_code == code
    assert ("null is lower by 1 [0.386, 1], more than 0.5" in result.stderr) == (code == 1)
    assert compare(folders[1], folders[0], "--max-drop", most).exit_code == 0  # a gain


def test_another_measure(folders: tuple[str, str]) -> None:
    found = json.loads(compare(*folders, "--measure", "reward", "--json").stdout)
    assert (found["measure"], found["difference"]["mean"]) == ("reward", 1.0)
    assert compare(*folders, "--measure", "turns").exit_code == 2


def test_another_version_must_be_accepted(folders: tuple[str, str]) -> None:
    path = Path(folders[1]) / "summary.json"
    summary = json.loads(path.read_text())
    summary["env"]["version"] = "agentrl 9.9"
    path.write_text(json.dumps(summary))
    refused = compare(*folders)
    assert (refused.exit_code, "--allow-versions" in refused.stderr) == (1, True)
    accepted = compare(*folders, "--allow-versions")
    assert accepted.exit_code == 0


def test_what_is_no_benchmark_is_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    result = compare(folders[0], str(tmp_path / "absent"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no folder" in result.stderr
    run_bench("agentrl/Shop-v0", "null", out=tmp_path / "shop", num_tasks=2, references=False)
    result = compare(folders[0], str(tmp_path / "shop"), "--json")
    assert result.exit_code == 1
    assert "the first was measured on agentrl/Guess-v0" in json.loads(result.stdout)["error"]["message"]


def test_training_runs(tmp_path: Path) -> None:
    """Two seeds of one setting, as `agentrl train` leaves them."""
    for seed in (0, 1):
        train(replace(CONFIG, seed=seed), tmp_path / "cell" / f"seed-{seed}")
    found = json.loads(compare(str(tmp_path / "cell"), "--json").stdout)
    assert (found["env"]["id"], found["n_tasks"]) == ("test/Ask-v0", 3)
    greedy, sampled = found["settings"]
    assert (greedy["mode"], sampled["mode"], greedy["seeds"], greedy["against_first"]) == (
        *("greedy", "sampled"),
        [0, 1],
        None,
    )
    assert sampled["change"]["mean"] == sampled["after"]["mean"] - sampled["before"]["mean"]
    shown = compare(str(tmp_path / "cell" / "seed-0"), str(tmp_path / "cell" / "seed-1"))
    assert "sampled · 3 tasks of every run" in shown.stdout
    assert compare(str(tmp_path / "cell"), "--measure", "reward").exit_code == 2
    assert compare(str(tmp_path / "absent")).exit_code == 2


def test_a_refused_comparison_can_be_forced_and_says_so(folders: tuple[str, str]) -> None:
    summary = json.loads((Path(folders[1]) / "summary.json").read_text())
    summary["env"]["limits"] = {"max_turns": 3}
    (Path(folders[1]) / "summary.json").write_text(json.dumps(summary))
    refused = compare(*folders)
    assert refused.exit_code == 1
    assert "cannot compare" in refused.stderr
    forced = compare(*folders, "--force")
    assert forced.exit_code == 0, forced.output
    assert "forced: the first was measured on" in " ".join(forced.stdout.split())
    (why,) = json.loads(compare(*folders, "--force", "--json").stdout)["forced"]
    assert "max_turns=3" in why
