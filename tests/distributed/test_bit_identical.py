"""Training with samplers in other processes, as a user runs it: the same bits as in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agentrl.training.plan import TrainConfig
from agentrl.training.settings import ScaleConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.train import train
from tests.training.stages.test_resume import CONFIG, STAGES, left_by

SHORT: TrainConfig = replace(
    CONFIG, stages={"copy": STAGES["supervise"], "it": STAGES["grpo"], "after": Evaluate(num_tasks=4)}
)


def test_two_samplers_without_lag_learn_the_same_bits(tmp_path: Path) -> None:
    train(SHORT, tmp_path / "one")
    train(replace(SHORT, scale=ScaleConfig(samplers=2)), tmp_path / "two")
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "two")
    assert len(here["episodes"]) == 48 + 2 * 4
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    added = {"scale/samplers": 2.0, "scale/restarts": 0.0}
    assert elsewhere["metrics"] == [m | added if m["stage"] == "it" else m for m in here["metrics"]]
