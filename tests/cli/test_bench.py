"""`agentrl bench`: options, the table, JSON, records, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main

ENV = "agentrl/Guess-v0"


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


def test_the_oracle_beside_doing_nothing(tmp_path: Path) -> None:
    result = bench(ENV, "--tasks", "5", "--trials", "2", "--out", str(tmp_path / "b"), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["success"]["mean"], report["n_episodes"], report["policy"]) == (1.0, 10, "oracle")
    assert report["references"]["null"]["success"]["mean"] == 0.0
    assert report["pass_hat_k"]["2"]["mean"] == 1.0
    assert len((tmp_path / "b" / "trajectories.jsonl").read_text().splitlines()) == 15


def test_the_table(tmp_path: Path) -> None:
    out = tmp_path / "b"
    text = bench(ENV, "--policy", "null", "--tasks", "4", "--trials", "2", "--out", str(out)).stdout
    rows = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) > 1}
    assert (rows["null"], rows["oracle"]) == ("0.0%", "100.0%")
    assert f"records: {out}" in text


def test_without_references(tmp_path: Path) -> None:
    result = bench(ENV, "--tasks", "2", "--no-references", "--out", str(tmp_path / "b"), "--json")
    assert json.loads(result.stdout)["references"] == {}


def test_further_measures(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from agentrl.bench.measures.effort import Turns\n\nclass Mine(Turns):\n    name = 'mine'\n"
    )
    measures = ("--measure", "pass_at:2", "--measure", f"{tmp_path}/mine.py:Mine")
    arguments = (ENV, "--tasks", "2", "--trials", "2", *measures, "--out", str(tmp_path / "b"))
    record = json.loads(bench(*arguments, "--json").stdout)
    assert list(record["measures"]) == ["pass_at:2", "mine"]
    assert record["measures"]["pass_at:2"]["mean"] == 1.0
    assert record["measures"]["mine"]["mean"] == record["effort"]["turns"]
    assert "pass_at:2" in bench(*arguments).stdout


def test_records_go_to_runs_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(ENV, "--tasks", "1").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("bench-Guess-v0-oracle-")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("agentrl/Gess-v0",), 1, "Did you mean 'agentrl/Guess-v0'?"),
        ((ENV, "--policy", "oracel"), 1, "Did you mean 'oracle'?"),
        ((ENV, "--policy", "local:absent"), 1, "there is no folder 'absent'"),
        ((ENV, "--split", "evil"), 1, "Did you mean 'eval'?"),
        ((ENV, "--tasks", "999999"), 1, "ask for fewer"),
        ((ENV, "--measure", "turn"), 1, "Did you mean 'turns'?"),
        ((ENV, "--measure", "pass_at"), 1, "write 'pass_at:K'"),
        ((ENV, "--trials", "0"), 2, "--trials"),
        ((ENV, "--base-url", "http://localhost:1/v1"), 1, "a base URL goes with openai:NAME"),
    ],
)
def test_wrong_calls(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = bench(*arguments, "--out", str(tmp_path / "b"))
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert not (tmp_path / "b").exists()
