"""`agentrl bench`: options, the table, JSON, records, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
    rows = [words for line in text.splitlines() if (words := line.split())[:1] in (["null"], ["oracle"])]
    assert [row[1] for row in rows[:2]] == ["0.0%", "100.0%"]
    assert rows[2:] == [["null", "8", "8", "0", "0", "0"], ["oracle", "4", "4", "0", "0", "0"]]
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


BREAKS = """
from agentrl import EnvFault, Tasks, ToolEnv

class Breaks(ToolEnv):
    tasks = Tasks.of(eval=[{"n": n} for n in range(4)])

    def start(self, task):
        if WHEN == "start" and task.data["n"] == 3:
            raise EnvFault("the ledger is down", who="server", answers=False)
        return "how many?"

    down = False

    def score(self, answer):
        if WHEN == "score" and self.task.data["n"] == 3:
            Breaks.down = True  # and stays down
        if self.down:
            raise EnvFault("the ledger is down", who="server", answers=False)
        return 1.0

    def oracle(self, messages):
        return "3"
"""


def breaks(folder: Path, when: str) -> str:
    """A file with an environment whose server fails on one task of four."""
    folder.mkdir()
    (folder / "breaks.py").write_text(f"WHEN = {when!r}\n{BREAKS}")
    return f"{folder / 'breaks.py'}:Breaks"


def test_discards_after_the_model_acted_have_an_exit_code_of_their_own(tmp_path: Path) -> None:
    env, out = breaks(tmp_path / "env", "score"), str(tmp_path / "b")
    result = bench(env, "--no-references", "--out", out, "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert (report["status"], report["n_discarded_after_actions"], report["discarded"]["server"]) == ("finished", 1, 1)
    assert (report["success"]["mean"], report["success_of_attempted"]["mean"]) == (1.0, 0.75)
    assert "1 of 4 episodes were discarded after the model had acted" in report["warnings"][0]
    assert "Warning: 1 of 4 episodes were discarded after the model had acted" in result.stderr
    text = bench(env, "--no-references", "--out", out)
    assert (text.exit_code, "do not trust this success rate" in " ".join(text.stdout.split())) == (3, True)
    # Exit code 1 means that there is no result; here there is one.
    compared = CliRunner().invoke(main, ["compare", out, out, "--json"])
    assert compared.exit_code == 3
    assert len(json.loads(compared.stdout)["warnings"]) == 2


def test_discards_before_the_model_acted_are_no_reason_to_fail(tmp_path: Path) -> None:
    result = bench(breaks(tmp_path / "env", "start"), "--no-references", "--out", str(tmp_path / "b"), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["n_attempted"], report["n_faults"], report["discarded"]["server"], report["warnings"]) == (
        4,
        1,
        1,
        [],
    )


DRIFT = """
import os

from agentrl import Tasks, ToolEnv

class Drift(ToolEnv):
    tasks = Tasks.of(eval=[{"q": f"version {os.environ['V']} question {i}"} for i in range(4)])

    def start(self, task):
        return task.data["q"]

    def score(self, answer):
        return float(answer == self.task.data["q"])

    def oracle(self, messages):
        return messages[0].content if os.environ["V"] == "1" else "wrong"
"""


def test_tasks_that_drift_between_two_calls_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drift.py").write_text(DRIFT)

    def call(version: str, out: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentrl", "bench", "./drift.py:Drift", "--out", out, "--json"]
        environment = {**os.environ, "V": version}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert json.loads(call("1", "run").stdout)["success"]["mean"] == 1.0
    second = call("2", "run")
    assert second.returncode == 1
    assert (
        "run holds a benchmark with other content of tasks 'eval-0', 'eval-1', 'eval-2' and 1 others" in second.stderr
    )
    assert "choose another folder (--out)" in second.stderr
    assert json.loads(call("2", "new").stdout)["success"]["mean"] == 0.0
    compared = CliRunner().invoke(main, ["compare", str(tmp_path / "run"), str(tmp_path / "new")])
    assert compared.exit_code == 1
    assert "cannot compare: tasks 'eval-0', 'eval-1', 'eval-2' and 1 others had other content" in compared.stderr


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
