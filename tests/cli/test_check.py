"""`agentrl check` of environments that are slow on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main

SLOW = """
import time
from agentrl import Tasks, ToolEnv

class Slow(ToolEnv):
    tasks = Tasks.of(train=[{}])

    def start(self, task):
        time.sleep(1)
        return "Say it."

    def score(self, answer):
        return float(answer == "it")
"""


def test_the_time_of_an_episode_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(SLOW)
    told = CliRunner().invoke(main, ["check", "./slow.py:Slow", "--timeout", "0.2"])
    assert told.exit_code == 1
    assert "agentrl check --timeout SECONDS" in told.output
    given = list[float]()

    def fake(env: str, *, timeout_s: float) -> None:
        given.append(timeout_s)
        raise ValueError("seen")

    monkeypatch.setattr("agentrl.env.check.check_env", fake)
    CliRunner().invoke(main, ["check", "./slow.py:Slow", "--timeout", "60"])
    CliRunner().invoke(main, ["check", "./slow.py:Slow"])
    assert given == [60, 10]
