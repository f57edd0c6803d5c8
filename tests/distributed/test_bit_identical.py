"""Training with samplers in other processes, as a user runs it: the same bits as in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import SamplingConfig, ScaleConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.train import train
from tests.training.stages.conftest import undecided
from tests.training.stages.test_forks import FORKED, TWICE
from tests.training.stages.test_resume import CONFIG, STAGES, left_by

__all__ = ["undecided"]
SHORT: TrainConfig = replace(
    CONFIG, stages={"copy": STAGES["supervise"], "it": STAGES["grpo"], "after": Evaluate(num_tasks=4)}
)


FORKS: dict[str, Any] = {"stages": {"it": replace(FORKED, steps=2)}, **TWICE}
HOT: dict[str, Any] = {"sampling": SamplingConfig(temperature=2.5, max_tokens=6)}


@pytest.mark.parametrize(
    ("changes", "episodes"),
    [({}, 48 + 2 * 4), (HOT, 48 + 2 * 4), (FORKS, 2 * 12 * 3)],
    ids=["plain", "temperature 2.5", "forks"],
)
def test_two_samplers_without_lag_learn_the_same_bits(
    changes: dict[str, Any], episodes: int, undecided: ModelConfig, tmp_path: Path
) -> None:
    plan = replace(SHORT, model=undecided, **changes)
    train(plan, tmp_path / "one")
    train(replace(plan, scale=ScaleConfig(samplers=2)), tmp_path / "two")
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "two")
    assert len(here["episodes"]) == episodes
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    added = {"scale/samplers": 2.0, "scale/restarts": 0.0}
    assert elsewhere["metrics"] == [m | added if m["stage"] == "it" else m for m in here["metrics"]]
