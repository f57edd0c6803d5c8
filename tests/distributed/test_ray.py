"""Training with samplers as actors of Ray, as a user runs it. Needs `pip install 'agentrl[ray]'`; skipped without."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentrl.errors import ConfigError
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import ScaleConfig
from agentrl.training.train import train
from tests.distributed.test_bit_identical import SHORT
from tests.training.stages.test_resume import left_by

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


def samplers() -> list[psutil.Process]:
    """The sampling processes of this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("agentrl.distributed.process" in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_without_lag_the_bits_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    train(SHORT, tmp_path / "one")
    train(replace(SHORT, scale=replace(RAY, address=cluster.address)), tmp_path / "ray")
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "ray")
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
    assert samplers() == []


@pytest.mark.parametrize("whom", ["sampler", "actor"])
def test_a_killed_worker_is_replaced_and_no_group_is_lost(cluster: Any, tmp_path: Path, whom: str) -> None:
    killed: list[int] = []

    def kill() -> None:
        for _ in range(1200):
            for process in samplers():
                victim = process if whom == "sampler" else process.parent()
                if victim is not None and (tmp_path / "ray" / "trajectories.jsonl").exists():
                    killed.append(victim.pid)
                    os.kill(victim.pid, signal.SIGKILL)
                    return
            time.sleep(0.05)

    train(SHORT, tmp_path / "one")
    thread = threading.Thread(target=kill)
    thread.start()
    train(replace(SHORT, scale=replace(RAY, address=cluster.address)), tmp_path / "ray")
    thread.join()
    assert len(killed) == 1
    here, elsewhere = left_by(tmp_path / "one"), left_by(tmp_path / "ray")
    assert elsewhere["episodes"] == here["episodes"]
    assert elsewhere["weights"] == here["weights"]
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
