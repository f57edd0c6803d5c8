"""`agentrl export-episodes` and `agentrl import`: a benchmark goes out, and comes back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.rollout.store import TrajectoryStore


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    done = run("bench", "agentrl/Shop-v0", "--tasks", 3, "--policy", "random", "--out", tmp_path / "bench")
    assert done.exit_code == 0, done.output
    return tmp_path / "bench"


@pytest.mark.parametrize(("form", "name"), [("atif", "a.jsonl"), ("inspect", "log.json")])
def test_a_benchmark_goes_out_and_comes_back(form: str, name: str, bench: Path, tmp_path: Path) -> None:
    done = run("export-episodes", bench, "--format", form, "--out", tmp_path / name, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["episodes"], told["discarded"], told["with_ids"]) == (3, 0, 0)
    done = run("import", tmp_path / name, "--format", form, "--out", tmp_path / "back")
    assert done.exit_code == 0, done.output
    assert "3 chats" in done.stdout
    before = [e for e in TrajectoryStore(bench / "trajectories.jsonl") if e.labels.stage == "bench"]
    back = list(TrajectoryStore(tmp_path / "back" / "trajectories.jsonl"))
    assert [e.messages() for e in back] == [e.messages() for e in before]
    assert [[t.reward for t in e.turns] for e in back] == [[t.reward for t in e.turns] for e in before]
    assert [e.info for e in back] == [e.info for e in before]
    again = run("replay", tmp_path / "back" / "trajectories.jsonl")
    assert again.exit_code == 0, again.output
    assert "3 same" in again.output


def test_verifiers_are_written_and_not_read(bench: Path, tmp_path: Path) -> None:
    done = run("export-episodes", bench, "--format", "verifiers", "--out", tmp_path / "traces.jsonl")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("3 episodes, ")
    assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == 3
    assert run("import", "x", "--format", "verifiers", "--out", "y").exit_code == 2
    assert run("import", "x", "--format", "atif", "--keep-fields", "--out", "y").exit_code == 2


def test_an_existing_file_is_refused(bench: Path, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text("mine")
    done = run("export-episodes", bench, "--format", "inspect", "--out", tmp_path / "log.json")
    assert done.exit_code == 1
    assert "exists: name a new file" in done.stderr
    assert (tmp_path / "log.json").read_text() == "mine"
