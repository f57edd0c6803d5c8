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


@pytest.mark.parametrize(
    ("arguments", "words"), [(("agentrl/Shpo-v0",), "Shop-v0"), ((SOUND, "--split", "test"), "no split 'test'")]
)
def test_what_does_not_exist_is_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 1
    assert words in result.output
