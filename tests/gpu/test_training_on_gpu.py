"""Training on a GPU as a user runs it: each algorithm, and a run that goes on from its checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.training.algorithms import ALGORITHMS, stage_of
from agentrl.training.model_setup import ModelConfig
from agentrl.training.progress import Progress
from agentrl.training.train import resume, train
from tests.gpu.conftest import DEVICE
from tests.training import test_loop
from tests.training.stages.conftest import metrics_of, run_of, undecided
from tests.training.stages.test_algorithms import SMALL

__all__ = ["run_of", "undecided"]


@pytest.mark.parametrize("name", ALGORITHMS.names)
def test_each_algorithm_trains(name: str, run_of: Callable[..., Path], undecided: ModelConfig) -> None:
    run = run_of({"rl": stage_of(name, **SMALL)}, model=replace(undecided, device=DEVICE))
    (step,) = metrics_of(run, "rl")
    assert math.isfinite(step.get("loss/policy", step.get("loss/preference")))
    assert 0 < step["grad/norm"] < 1000
    assert step["grad/skipped"] == 0
    assert step.get("mismatch/nats", 0.0) < 1e-4
    assert json.loads((run / "summary.json").read_text())["machine"]["device"].startswith(DEVICE)


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Stopped in the middle, it plays the episodes, and logs the steps, of the run that was not stopped."""
    config = replace(test_loop.CONFIG, model=replace(test_loop.CONFIG.model, device=DEVICE))
    train(config, tmp_path / "whole")

    def stop(at: Progress) -> None:
        if at.metrics and (at.stage, at.step) == ("rl", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", on_progress=stop)
    resume(tmp_path / "run")
    whole, found = (test_loop._metrics(tmp_path / name) for name in ("whole", "run"))
    assert [(line["stage"], line["version"]) for line in found] == [(line["stage"], line["version"]) for line in whole]
    assert len(test_loop._episodes(tmp_path / "run")) == len(test_loop._episodes(tmp_path / "whole"))
    losses = [[line["loss/policy"] for line in lines if "loss/policy" in line] for lines in (whole, found)]
    assert losses[1][:2] == pytest.approx(losses[0][:2], rel=1e-3, abs=1e-4)
