"""A result says where and how it came about, and gives away no secret."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agentrl.bench.provenance import Provenance, command_line, git_revision, machine_facts
from agentrl.bench.runner import run_bench
from tests.bench.toys import Adder


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_result_holds_it() -> None:
    record = json.loads(json.dumps(run_bench(Adder, "null", num_tasks=1).to_json()))["provenance"]
    assert record["machine"] == machine_facts()
    assert set(record) == {"machine", "command", "git"}
    assert record["machine"]["cores"] >= 1
    assert Provenance.here().git == record["git"]


def test_the_revision_of_a_repository(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == ""
    git(tmp_path, "init", "-q")
    (tmp_path / "env.py").write_text("a = 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_revision(tmp_path) == commit
    (tmp_path / "other.txt").write_text("not tracked")
    assert git_revision(tmp_path) == commit
    (tmp_path / "env.py").write_text("a = 2")
    assert git_revision(tmp_path) == f"{commit}+"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["/usr/bin/agentrl", "bench", "./my env.py:E", "--trials", "4"], "agentrl bench './my env.py:E' --trials 4"),
        (
            ["agentrl", "--base-url", "https://me:pw@host/v1?api_key=sk-1"],
            "agentrl --base-url 'https://host/v1?api_key=REDACTED'",
        ),
        (["agentrl", "--chat", "extra_body.header=sk-1"], "agentrl --chat extra_body=REDACTED"),
        (["agentrl", "--kwarg", "api_key=sk-1"], "agentrl --kwarg api_key=REDACTED"),
        (["/x/agentrl/__main__.py", "envs"], "agentrl envs"),
        (["pytest", "-q"], ""),
        ([], ""),
    ],
)
def test_a_command_line_without_credentials(given: list[str], shown: str) -> None:
    assert command_line(given) == shown
