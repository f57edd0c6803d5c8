"""Training with samplers as actors of Ray, as a user runs it. Needs `pip install 'agentrl[ray]'`; skipped without."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, ScaleConfig
from agentrl.training.train import train
from tests.distributed.test_bit_identical import SHORT
from tests.training.stages.conftest import CONFIG, undecided
from tests.training.stages.test_resume import RL, left_by

__all__ = ["undecided"]
RAY = ScaleConfig(samplers=2, engine="ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes on this machine, of one CPU each; the first has none, so that samplers are on the others."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def samplers() -> list[Path]:
    """The sampling processes that actors have started on this machine; they are given some seconds to end."""
    found: list[Path] = []
    for _ in range(100):
        found = [process for process in Path("/proc").glob("[0-9]*") if _is_sampler(process)]
        if not found:
            break
        time.sleep(0.1)
    return found


def _is_sampler(process: Path) -> bool:
    try:
        words, variables = ((process / name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False
    return b"RAY_JOB_ID=" in variables and b"agentrl.distributed.process" in words


def test_without_lag_the_bits_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    train(SHORT, tmp_path / "one")
    train(replace(SHORT, scale=replace(RAY, address=cluster.address)), tmp_path / "ray")
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "ray")
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    assert samplers() == []


@pytest.mark.parametrize("above", [0, 1, 2], ids=["sampler", "actor", "node"])
def test_a_worker_that_is_killed_in_the_middle_of_a_group_changes_no_bit(
    cluster: Any, undecided: ModelConfig, tmp_path: Path, above: int
) -> None:
    kwargs = {"mark": str(tmp_path / "mark"), "spare": os.getpid(), "above": above}
    env = EnvConfig("tests.distributed.fatal:Fatal", kwargs=kwargs)
    config = replace(CONFIG, env=env, model=undecided, stages={"it": RL})
    train(config, tmp_path / "one")
    train(replace(config, scale=replace(RAY, samplers=1, address=cluster.address)), tmp_path / "killed")
    assert (tmp_path / "mark").exists()
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "killed")
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    assert elsewhere["metrics"][-1]["scale/restarts"] == 1.0
    assert samplers() == []


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (ScaleConfig(engine="ray"), "set scale.samplers"),
        (ScaleConfig(samplers=1, address="auto"), "set scale.engine = 'ray'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, scale: ScaleConfig, said: str) -> None:
    config: TrainConfig = replace(SHORT, scale=scale)
    with pytest.raises(ConfigError, match=said):
        train(config, tmp_path / "run")


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'agentrl\[ray\]'"):
        train(replace(SHORT, scale=RAY), tmp_path / "run")
