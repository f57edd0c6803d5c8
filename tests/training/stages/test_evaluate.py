"""The stage `evaluate` as a user runs it: what its table says beyond success."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.stages.evaluate import Evaluate

RunOf = Callable[..., Path]


def test_named_measures_stand_in_the_table_of_each_mode(run_of: RunOf) -> None:
    run = run_of({"after": Evaluate(trials=4, measures=("reward", "completion_tokens", "pass_at:2"))})
    table = json.loads((run / "summary.json").read_text())["after"]
    played = [t for t in TrajectoryStore(run / "trajectories.jsonl") if t.labels.mode == "sampled"]
    found = table["sampled"]["measures"]
    assert list(found) == ["reward", "completion_tokens", "pass_at:2"]
    assert found["reward"]["mean"] == pytest.approx(sum(t.reward for t in played) / len(played))
    assert found["completion_tokens"]["mean"] == pytest.approx(sum(t.num_sampled_tokens for t in played) / len(played))
    assert found["completion_tokens"]["unit"] == "tokens"
    assert table["greedy"]["measures"]["reward"]["n"] == 4


def test_without_measures_the_table_has_none(run_of: RunOf) -> None:
    table = json.loads((run_of({"after": Evaluate()}) / "summary.json").read_text())["after"]
    assert "measures" not in table["sampled"]


def test_an_unknown_measure_is_refused_before_the_run(run_of: RunOf, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.after\.measures: .*'sucess'"):
        run_of({"after": Evaluate(measures=("sucess",))}, "refused")
    assert not (tmp_path / "refused").exists()
