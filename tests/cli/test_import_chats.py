"""`agentrl import`: a store of a file of chats, lines that are named, and nothing overwritten."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.rollout.store import TrajectoryStore

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "reward": 1}'
BAD = '{"messages": [{"role": "user", "content": "a"}]}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two chats of one task, an empty line, and a byte-order mark."""
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\n\n{GOOD.replace('1}', '0}')}".encode())
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, words)])


def test_a_file_becomes_a_store_that_says_where_it_came_from(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "chats"
    result = run(file, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["chats"], told["tasks"], told["rewarded"], told["succeeded"]) == (2, 1, 2, 1)
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads((out / "import.json").read_text()) == told
    chats = list(TrajectoryStore(out / "trajectories.jsonl"))
    assert [(chat.episode_id, chat.reward) for chat in chats] == [("line-1", 1.0), ("line-3", 0.0)]


def test_every_bad_line_is_named_and_nothing_is_written(file: Path, tmp_path: Path) -> None:
    file.write_text(f"{GOOD}\n{BAD}\n{{\n")
    result = run(file, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "2 lines of" in result.stderr
    assert "line 2: messages holds no message of the assistant" in result.stderr
    assert "line 3: is not JSON" in result.stderr
    assert sorted(tmp_path.iterdir()) == [file]
    skipped = json.loads(run(file, "--out", tmp_path / "out", "--skip-bad", "--json").stdout)
    assert (skipped["chats"], [bad["line"] for bad in skipped["skipped"]]) == (1, [2, 3])


def test_a_file_without_chats_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_text(f"\n{BAD}\n")
    assert "holds no chats" in run(file, "--out", tmp_path / "out", "--skip-bad").stderr
    assert "cannot read" in run(tmp_path / "absent.jsonl", "--out", tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").touch()
    assert run(file, "--out", out).exit_code == 0  # an empty folder is taken
    before = {path: path.read_bytes() for path in out.iterdir()}
    refused = run(file, "--out", out)
    assert refused.exit_code == 1
    assert "nothing is overwritten" in refused.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before
