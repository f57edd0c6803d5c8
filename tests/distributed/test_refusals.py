"""What cannot be sampled in other processes is refused before the run begins, and says what to do."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from agentrl.env import registry
from agentrl.env.registry import modules_of
from agentrl.errors import ConfigError
from agentrl.rollout.sources.few_shot import FewShot
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from tests.training.stages.conftest import Agree

CONFIG = TrainConfig(
    EnvConfig("tests.training.stages.conftest:Agree"),
    model=ModelConfig(path="a/folder"),
    stages={"rl": Reinforce()},
    scale=ScaleConfig(samplers=2),
)


def refused(config: TrainConfig, words: str) -> None:
    with closing(registry.make(config.env.ref)) as probe, pytest.raises(ConfigError, match=words):
        config.check(probe)


def test_an_environment_of_the_program_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agree, "__module__", "__main__")
    refused(replace(CONFIG, env=EnvConfig("test/Agree-v0")), r"test/Agree-v0 is defined in the program.*'\./file\.py")


def test_few_shot_is_refused() -> None:
    playing = Playing(few_shot=FewShot(demonstrator="yes"))
    refused(replace(CONFIG, stages={"rl": Reinforce(playing=playing)}), "few_shot plays with the trainer")


def test_other_processes_import_what_registers_an_environment_here() -> None:
    named = ["test/Agree-v0", "test/AgreeTwice-v0", "agentrl/Shop-v0", "tests.distributed.fatal:Fatal"]
    assert modules_of(named) == ("tests.training.stages.conftest",)


@pytest.mark.parametrize(
    ("threads", "max_lag", "samplers", "learners", "expected"),
    [
        (3, 1, 1, 1, 3),
        (0, 1, 0, 1, 0),
        (0, 0, 1, 1, 0),
        (0, 1, 1, 1, 3),
        (0, 1, 9, 1, 1),
        (0, 0, 1, 2, 2),
        (0, 1, 2, 2, 1),
        (3, 1, 1, 2, 3),
    ],
)
def test_a_trainer_that_overlaps_with_samplers_takes_the_cores_that_they_leave(
    monkeypatch: pytest.MonkeyPatch, threads: int, max_lag: int, samplers: int, learners: int, expected: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    run, scale = replace(CONFIG.run, threads=threads), ScaleConfig(samplers=samplers, learners=learners)
    stages = {"rl": Reinforce(playing=Playing(max_lag=max_lag))}
    assert replace(CONFIG, stages=stages, run=run, scale=scale).learner_threads == expected
