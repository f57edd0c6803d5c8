"""The table of `benchmarks/harness_overhead.py`, and the episodes that it plays with AgentRL."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> list[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("harness_overhead", "harness_worker", "harness_cases.agentrl_bench", "harness_cases.played")
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(BENCHMARKS))


def write(cells: Path, name: str, records: str, number: int, us: float) -> None:
    found = {"us_per_step": us, "bytes_per_episode": 7, "version": "1", "load": [0.5, 1.0]}
    (cells / f"{name}.{records}.{number}.json").write_text(json.dumps(found))


def test_a_share_is_the_median_of_the_rounds_that_both_played(modules: list[ModuleType], tmp_path: Path) -> None:
    overhead = modules[0]
    for number, (ours, theirs) in enumerate([(10, 100), (10, 20), (10, 40)], 1):
        write(tmp_path, "agentrl", "recorded", number, ours)
        write(tmp_path, "inspect", "recorded", number, theirs)
    write(tmp_path, "inspect", "recorded", 4, 1.0)  # without a round of AgentRL's
    assert overhead.shares(overhead.HARNESSES, tmp_path) == {"inspect": 0.25}
    rows = overhead.table(overhead.HARNESSES, tmp_path).splitlines()
    assert rows[2].startswith("| agentrl | 1 | yes | 10.0 | 10.0–10.0 | 1 | 7 |")
    assert rows[3].startswith("| inspect | 1 | yes | 30.0 | 1.0–100.0 | 1/4.0 | 7 |")
    assert len(rows) == 4


@pytest.mark.parametrize("recorded", [True, False])
def test_episodes_are_checked_against_the_script(modules: list[ModuleType], recorded: bool) -> None:
    _, worker, case, played = modules
    found = worker.play(case, 4, played.Setting(recorded, 2))
    assert (found["episodes"], found["turns"], found["bytes"] > 0) == (4, 28, recorded)


def test_other_results_than_expected_are_an_error(modules: list[ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    _, worker, case, played = modules
    monkeypatch.setattr(worker, "expected", lambda items: {})
    with pytest.raises(RuntimeError, match="the records hold other scores or tool results"):
        worker.play(case, 2, played.Setting(True, 2))
