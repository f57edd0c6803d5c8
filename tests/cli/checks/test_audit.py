"""`agentrl audit` reports flaws with an exit code, as text and as one JSON document."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from agentrl.cli import main

SOUND = "tests.bench.audit.planted:Sound"
FLAWED = "tests.bench.audit.planted:PaysSilence"


def run(*arguments: str):
    return CliRunner().invoke(main, ["audit", *arguments])


def test_a_sound_environment_passes():
    result = run(SOUND, "--tasks", "4")
    assert result.exit_code == 0, result.output
    assert "4 tasks: ok (13 checks; nothing found)" in result.stdout
    assert "oracle  100.0%" in result.stdout


def test_a_flaw_is_shown_with_its_transcript_and_the_command_fails():
    result = run(FLAWED, "--tasks", "4")
    assert result.exit_code == 1
    assert "error [pays-for-silence] answering nothing solves 100% of the tasks" in result.stdout
    assert "assistant: (nothing)" in result.stdout


def test_json_is_one_document():
    result = run(FLAWED, "--tasks", "4", "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert record["ok"] is False
    assert record["num_tasks"] == 4
    assert len(record["flaws"][0]["tasks"]) == 4


def test_a_suite_is_audited_environment_by_environment(tmp_path):
    suite, out = tmp_path / "suite.toml", tmp_path / "run"
    suite.write_text(f'[envs.good]\nid = "{SOUND}"\nnum_tasks = 4\n\n[envs.bad]\nid = "{FLAWED}"\nnum_tasks = 3\n')
    result = run(str(suite), "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["ok"], record["errors"]) == (1, False, {})
    assert {name: (one["ok"], one["num_tasks"]) for name, one in record["envs"].items()} == {
        "good": (True, 4),
        "bad": (False, 3),
    }
    assert "[bad] " in run(str(suite), "--tasks", "2").stdout
    assert run(str(suite), "--split", "train").exit_code == 2
    played = CliRunner().invoke(main, ["bench", str(suite), "--out", str(out)])
    assert played.exit_code == 0, played.output
    (out / "audit.json").write_text(result.stdout)
    assert CliRunner().invoke(main, ["report", str(out), "--out", str(tmp_path / "page.html")]).exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "answering nothing solves 100% of the tasks" in page, "the banner of each environment is its own audit"
    assert "nothing found" in page


@pytest.mark.parametrize(
    ("arguments", "words"), [(("agentrl/Shpo-v0",), "Shop-v0"), ((SOUND, "--split", "test"), "no split 'test'")]
)
def test_what_does_not_exist_is_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 1
    assert words in result.output
