"""The expert term of the stage `reinforce`: its gradient, what a run learns from it, what it refuses, exact resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Total
from agentrl.learning.objectives.expert import Expert
from agentrl.learning.objectives.policy_gradient import PolicyGradient
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.rows import Row, with_coefficients
from agentrl.training.stages.expert import ExpertTerm, with_expert, without_expert
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.train import train
from tests.learning.fixtures import model_of, rows_of
from tests.training.stages.conftest import CONFIG, metrics_of

RunOf = Callable[..., Path]
SETTINGS = LearnerSettings(lr=1e-3, max_grad_norm=0.0, measure_share=0.0)


def demonstrations() -> list[Row]:
    """Two rows as a context builds them: the sampler's log-probabilities are not known."""
    masks = ([0, 0, 1, 1], [0, 1, 1, 1, 1])
    return [
        Row.of(np.arange(len(mask)) + 7, np.array(mask, bool), trajectory=n, sampled_logprobs=np.nan)
        for n, mask in enumerate(masks)
    ]


async def gradients_of(rows: list[Row], objective: Total | PolicyGradient | Supervised) -> torch.Tensor:
    learner = Learner(model_of(), replace(SETTINGS, lr=0.0), objective)
    await learner.update(rows, objective)
    return torch.cat([p.grad.flatten() for p in learner.model.parameters()])


async def test_the_gradient_is_that_of_the_policy_loss_plus_weight_times_mean_cross_entropy() -> None:
    total = Total(((1.0, PolicyGradient()), (0.3, Expert())))
    sampled, shown = without_expert(rows_of()), demonstrations()
    learner = Learner(model_of(), SETTINGS, total)
    both = await with_expert(sampled, shown, learner)
    together = await gradients_of(both, total)
    policy = await gradients_of(rows_of(), PolicyGradient())
    copied = await gradients_of(with_coefficients(shown, "token"), Supervised())
    torch.testing.assert_close(together, policy + 0.3 * copied, rtol=1e-5, atol=1e-6)
    assert copied.abs().max() > 1e-3


async def test_demonstrations_are_numbered_behind_the_sampled_rows_and_have_ratio_1() -> None:
    learner = Learner(model_of(), SETTINGS, Total(((1.0, PolicyGradient()), (1.0, Expert()))))
    rows = await with_expert(without_expert(rows_of()), demonstrations(), learner)
    assert [row.trajectory for row in rows] == list(range(9))
    metrics = await learner.update(rows[-2:], learner_objective := Total(((1.0, PolicyGradient()), (1.0, Expert()))))
    assert metrics["update/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["loss/policy"] == 0.0
    assert learner_objective.columns[-1] == "expert"


def test_an_expert_teaches_where_no_reward_differs(run_of: RunOf) -> None:
    """Its demonstrator says no, and with weight 0 of the reward the policy says what it says."""
    stage = Reinforce(
        steps=12, playing=Playing(4, 2), learner=LearnerSettings(lr=1e-2), expert=ExpertTerm("no", weight=5.0)
    )
    steps = metrics_of(run_of({"rl": stage}), "rl")
    assert steps[-1]["loss/expert"] < 0.1 < steps[0]["loss/expert"]
    assert steps[-1]["rollout/success"] == 0.0 < steps[0]["rollout/success"]


def test_an_interrupted_run_with_an_expert_goes_on_exactly(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    stages = {"rl": Reinforce(steps=5, playing=Playing(2, 2), checkpoint_every=2, expert=ExpertTerm("yes"))}
    assert metrics_of(interrupted_run_of(stages, after=3), "rl") == metrics_of(run_of(stages), "rl")


def test_an_unknown_expert_and_minibatches_are_refused(tmp_path: Path) -> None:
    for stage, message in [
        (Reinforce(expert=ExpertTerm("nobody")), "Agree has no method 'nobody'"),
        (Reinforce(expert=ExpertTerm("yes"), learner=LearnerSettings(num_minibatches=2)), "num_minibatches = 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            train(replace(CONFIG, model=replace(CONFIG.model, path=None), stages={"rl": stage}), tmp_path / "run")
