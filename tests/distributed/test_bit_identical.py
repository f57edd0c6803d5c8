"""Training with samplers in other processes, as a user runs it: the same bits as in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.training.plan import TrainConfig
from agentrl.training.settings import ScaleConfig
from agentrl.training.train import train
from tests.training.stages.test_resume import CONFIG, STAGES, left_by

SHORT: TrainConfig = replace(CONFIG, stages={"copy": STAGES["supervise"], "it": STAGES["grpo"]})


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    train(SHORT, run)
    return run


@pytest.mark.parametrize("samplers", [1, 2])
def test_samplers_without_lag_learn_the_same_bits(samplers: int, in_one_process: Path, tmp_path: Path) -> None:
    train(replace(SHORT, scale=ScaleConfig(samplers=samplers)), tmp_path / "run")
    here, elsewhere = left_by(in_one_process), left_by(tmp_path / "run")
    assert len(here["episodes"]) == 48
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    added = {"scale/samplers": float(samplers), "scale/restarts": 0.0}
    assert elsewhere["metrics"] == [m | added if m["stage"] == "it" else m for m in here["metrics"]]
