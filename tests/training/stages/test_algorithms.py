"""Each algorithm by its one line, from a file, from Python and from outside; and what further keys do to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import dump_config, load_config
from agentrl.errors import ConfigError
from agentrl.learning.credit.gagpo import GAGPO
from agentrl.learning.credit.group_relative import GRPO, RLOO
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.gspo import GSPO
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.preference import DPO
from agentrl.learning.shaping.overlong import Overlong
from agentrl.training.algorithms import ALGORITHMS, Algorithm, stage_of
from agentrl.training.plan import TrainConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from tests.training.stages.conftest import metrics_of

SMALL = {"steps": 1, "playing": {"prompts_per_step": 8, "group_size": 4}, "learner": {"lr": 3e-3}}
MINE = Algorithm({"credit": "rloo", "objective": {"kind": "gspo", "clip_high": 0.1}}, "of a test")


def stages_of(text: str, tmp_path: Path) -> dict[str, Any]:
    """The stages of a file that begins with an environment."""
    file = tmp_path / "run.toml"
    file.write_text('[env]\nid = "test/Agree-v0"\n' + text)
    return dict(load_config(TrainConfig, file).stages)


@pytest.mark.parametrize("name", ALGORITHMS.names)
def test_each_algorithm_trains(name: str, run_of: Callable[..., Path]) -> None:
    run = run_of({"rl": stage_of(name, **SMALL)})
    (step,) = metrics_of(run, "rl")
    loss = step.get("loss/policy", step.get("loss/preference"))
    assert math.isfinite(loss)
    assert 0 < step["grad/norm"] < 1000
    assert step["grad/skipped"] == 0


@pytest.mark.parametrize("name", ALGORITHMS.names)
def test_each_algorithm_is_one_line_of_a_file(name: str, tmp_path: Path) -> None:
    stages = stages_of(f'[stages.rl]\nalgorithm = "{name}"\n', tmp_path)
    assert stages["rl"] == stage_of(name)
    assert list(stages) == ["warm_start", "before", "rl", "after"]
    assert stages_of(f'[stages.mine]\nalgorithm = "{name}"\n', tmp_path) == {"mine": stage_of(name)}


def test_the_settings_of_some_algorithms() -> None:
    assert stage_of("grpo") == Reinforce(
        credit=GRPO(), objective=PPOClip(clip_high=0.2), aggregation="sequence", weight="all"
    )
    assert stage_of("dapo") == Reinforce(
        objective=PPOClip(clip_high=0.28), aggregation="token", dynamic_sampling=True, shaping=(Overlong(),)
    )
    assert stage_of("dpo") == Prefer(objective=DPO())


def test_further_keys_come_on_top(tmp_path: Path) -> None:
    changed = stage_of("gagpo", kl_coef=0.1, objective={"clip_high": 0.5})
    assert changed == Reinforce(
        credit=GAGPO(), objective=GSPO(clip_low=0.2, clip_high=0.5, sequence="turn"), kl_coef=0.1
    )
    assert stage_of("gspo", objective={"clip_high": 0.5}).objective == GSPO(clip_high=0.5)  # type: ignore[attr-defined]
    assert stage_of("ppo", objective="gspo").objective == GSPO()  # type: ignore[attr-defined]
    other = stage_of("ppo", objective={"kind": "gspo", "clip_high": 0.5})
    assert other.objective == GSPO(clip_high=0.5)  # type: ignore[attr-defined]
    toml = '[stages.rl]\nalgorithm = "dapo"\nobjective = { clip_high = 0.3 }\nshaping = []\n'
    assert stages_of(toml, tmp_path)["rl"] == stage_of("dapo", objective={"clip_high": 0.3}, shaping=[])


def test_an_override_names_an_algorithm_and_a_run_writes_what_it_stands_for(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[env]\nid = "test/Agree-v0"\n')
    config = load_config(TrainConfig, file, ["stages.rl.algorithm=dr_grpo", "stages.rl.steps=3"])
    assert config.stages["rl"] == stage_of("dr_grpo", steps=3)
    text = dump_config(config)
    assert "algorithm" not in text
    file.write_text(text)
    assert load_config(TrainConfig, file) == config


def test_an_algorithm_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('MINE = {"credit": "rloo", "objective": {"kind": "gspo", "clip_high": 0.1}}\n')
    expected = Reinforce(credit=RLOO(), objective=GSPO(clip_high=0.1))
    assert stage_of(f"{tmp_path / 'mine.py'}:MINE") == expected
    ALGORITHMS.register("mine", MINE)
    try:
        assert stages_of('[stages.rl]\nalgorithm = "mine"\n', tmp_path)["rl"] == expected
    finally:
        del ALGORITHMS._given["mine"]


def test_a_shaping_and_a_correction_of_your_own(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    """Named by the file and class; their settings stand next to the name."""
    (tmp_path / "own.py").write_text(OWN)
    shaping = f'shaping = [{{ kind = "{tmp_path}/own.py:Times", by = 3.0 }}]'
    importance = f'importance = {{ kind = "{tmp_path}/own.py:Half" }}'
    stage = stages_of(f'[stages.rl]\nalgorithm = "dr_grpo"\n{shaping}\n{importance}\n', tmp_path)["rl"]
    plain, changed = (
        metrics_of(run_of({"rl": made}, name=name), "rl")[0]
        for name, made in (
            ("plain", stage_of("dr_grpo", **SMALL, recompute_old_logprobs=True)),
            ("changed", replace(stage, steps=1, playing=Playing(8, 4), learner=LearnerSettings(lr=3e-3))),
        )
    )
    assert changed["loss/policy"] == pytest.approx(1.5 * plain["loss/policy"], rel=1e-3, abs=1e-6)
    assert changed["grad/norm"] == pytest.approx(1.5 * plain["grad/norm"], rel=1e-3)


def test_a_loss_and_an_estimator_that_are_functions(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    """Their keyword-only parameters are settings; the run writes them down and is read again."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    toml = (
        f'[stages.rl]\nkind = "reinforce"\ncredit = "{tmp_path}/functions.py:centred"\nsteps = 1\n'
        f'objective = {{ kind = "{tmp_path}/functions.py:surrogate", scale = 2.0 }}\n'
        "playing = { prompts_per_step = 8, group_size = 4 }\nlearner = { lr = 3e-3 }\n"
    )
    stages = stages_of(toml, tmp_path)
    changed, plain = (
        metrics_of(run_of({"rl": stage}, name=name), "rl")[0]
        for name, stage in (
            ("changed", stages["rl"]),
            ("plain", stage_of("dr_grpo", **SMALL, objective="policy_gradient", aggregation="token")),
        )
    )
    assert changed["grad/norm"] == pytest.approx(2 * plain["grad/norm"], rel=1e-5)
    config = load_config(TrainConfig, tmp_path / "run.toml")
    (tmp_path / "again.toml").write_text(dump_config(config))
    assert load_config(TrainConfig, tmp_path / "again.toml") == config
    with pytest.raises(ConfigError, match="scale"):
        stages_of(toml.replace("2.0", '"two"'), tmp_path)


FUNCTIONS = """
import numpy as np
import torch

def centred(groups):
    return [[np.full(len(t.turns), t.reward - np.mean(g.rewards)) for t in g.trajectories] for g in groups]

def surrogate(logprobs, old_logprobs, advantages, *, scale: float = 1.0):
    return -scale * torch.exp(logprobs - old_logprobs) * advantages
"""
OWN = """
from dataclasses import dataclass
import torch
from agentrl.learning.importance import Importance
from agentrl.learning.shaping.base import Shaping

@dataclass(frozen=True)
class Times(Shaping):
    by: float = 1.0

    def rewards(self, trajectory):
        return [self.by * turn.reward for turn in trajectory.turns]

@dataclass(frozen=True)
class Half(Importance):
    def __call__(self, log_ratio):
        return torch.full_like(log_ratio, 0.5)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[stages.rl]\nalgorithm = "grop"\n', "Did you mean 'grpo'"),
        ("[stages.rl]\nalgorithm = 3\n", "expected a name, one of"),
        ('[stages.rl]\nalgorithm = "dpo"\nkind = "reinforce"\n', "one of a stage of kind prefer, not reinforce"),
        ('[stages.warm_start]\nalgorithm = "grpo"\n', r"write it in \[stages.rl\]"),
        ('[stages.rl]\nalgorithm = "grpo"\nstep = 3\n', "unknown key 'stages.rl.step'"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        stages_of(text, tmp_path)
