"""verifiers 0.3: its in-process `ToolEnv` through `run_rollout`, as `overhead_cases.verifiers_case` plays it.

Release 0.4 has no such environment. Here nothing but the rollouts runs: its own evaluation adds to this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overhead_cases import verifiers_case
from overhead_cases.task import Problem

from harness_cases.played import Played, Setting


class Mock(verifiers_case.ScriptedClient):
    """The script, with a count of its turns."""

    turns = 0

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        Mock.turns += 1
        return await super().get_response(*args, **kwargs)


verifiers_case.ScriptedClient = Mock  # type: ignore[misc]


def run(problems: Sequence[Problem], folder: Path, setting: Setting) -> Path:
    """Every episode, its output as a line of JSON; unrecorded, the lines are written to nowhere."""
    Mock.turns, verifiers_case.CONCURRENCY = 0, setting.concurrency
    path = folder / "outputs.jsonl" if setting.recorded else Path("/dev/null")
    verifiers_case.run(problems, path)
    return path


def read(path: Path, folder: Path, setting: Setting) -> Played:
    if not setting.recorded:
        return Played(Mock.turns, None, None, 0)
    outcomes = verifiers_case.read(path)
    score = sum(score for score, _ in outcomes.values()) / len(outcomes)
    return Played(Mock.turns, score, outcomes, path.stat().st_size)
