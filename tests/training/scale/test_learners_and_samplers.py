"""Several ranks learn while samplers sample: the bits of the ranks alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.learning.learner import LearnerSettings
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import EnvConfig, ScaleConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.train import train
from tests.distributed.conftest import importable_tests
from tests.distributed.learners.fatal import no_children
from tests.training.stages.conftest import CONFIG, undecided
from tests.training.stages.test_resume import RL, left_by

__all__ = ["importable_tests", "undecided"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
ADAMW = LearnerSettings(lr=3e-3)
RANKS = {"whole": ScaleConfig(learners=2), "shared": ScaleConfig(learners=2, shard=True)}


@pytest.mark.parametrize("ranks", RANKS)
def test_samplers_get_the_weights_of_several_ranks(ranks: str, undecided: ModelConfig, tmp_path: Path) -> None:
    env = EnvConfig("tests.training.stages.conftest:Agree")
    stages = {"it": replace(RL, steps=2, learner=ADAMW), "after": Evaluate(num_tasks=4)}
    config = replace(CONFIG, env=env, model=undecided, stages=stages)
    train(replace(config, scale=RANKS[ranks]), tmp_path / "one")
    train(replace(config, scale=replace(RANKS[ranks], samplers=2)), tmp_path / "two")
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "two")
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    added = {"scale/samplers": 2.0, "scale/restarts": 0.0}
    assert elsewhere["metrics"] == [m | added if m["stage"] == "it" else m for m in here["metrics"]]
    assert no_children()
