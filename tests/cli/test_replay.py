"""`agentrl replay`: stores that replay, that differ, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.env import registry
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.runner import rollout
from agentrl.rollout.store import TrajectoryStore

ENV = "agentrl/Guess-v0"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tasks = registry.make(ENV).tasks.split("train")[:3]
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        rollout(ENV, OraclePolicy(), tasks, store=store)
    return folder


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments])


def test_a_folder_and_a_file_replay(recorded: Path) -> None:
    for target in (recorded, recorded / "trajectories.jsonl"):
        result = replay(str(target), "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == {"ok": True, "same": 3, "differs": 0, "skipped": 0, "differing": []}
    assert "2 same" in replay(str(recorded), "--limit", "2").stdout


def test_a_changed_record_is_named(recorded: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (recorded / "trajectories.jsonl").read_text().splitlines()]
    lines[1]["turns"][0]["reward"] = 0.5
    store = tmp_path / "changed.jsonl"
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = replay(str(store), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["same"], report["differs"]) == (2, 1)
    (difference,) = report["differing"]
    assert (difference["turn"], difference["part"], difference["recorded"]) == (0, "reward", "0.5")
    assert "turn 0: reward differs" in replay(str(store)).stdout


def test_what_cannot_be_replayed(recorded: Path, tmp_path: Path) -> None:
    result = replay(str(tmp_path))
    assert result.exit_code == 1
    assert "give a run folder or a trajectories.jsonl" in result.stderr
    assert replay(str(recorded), "--stage", "eval").exit_code == 1
    assert "Did you mean" in replay(str(recorded), "--env", "agentrl/Gess-v0").stderr
