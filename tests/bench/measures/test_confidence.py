"""Measures of confidence on episodes made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agentrl.bench.measures.base import measured
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.measures.confidence import answers_by_task, scaled_by_task
from agentrl.learning.confidence.calibration import calibration_error
from agentrl.messages import Action, TokenSignals
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, Turn

NAMES = ("ece", "ece_equal_mass", "ece_scaled", "brier", "auroc", "confidence", "most_confident")


def episode(task: str, c: float, reward: float, *, q: float = 0.5, ending: Ending = Ending("answer")) -> Trajectory:  # noqa: B008
    signals = TokenSignals(("So the answer is ", "4"), (0.0, c))
    turn = Turn((), Action("So the answer is 4", logprobs=(0.0, math.log(q)), signals=signals), reward)
    return Trajectory(EnvRef("e"), Task(task), 0, [turn], ending)


GIVEN = [episode("a", 0.9, 1.0, q=0.8), episode("a", 0.2, 0.0, q=0.4), episode("b", 0.9, 0.0), episode("b", 0.0, 1.0)]


def means(names, episodes):
    return {name: one.estimate.mean for name, one in measured(measures_of(names), episodes).items()}


def test_numbers_by_hand():
    found = means(NAMES, GIVEN)
    # Bins: 0.0 (right), 0.2 (wrong), two of 0.9 (one right).
    assert found["ece"] == pytest.approx((1.0 + 0.2 + 2 * 0.4) / 4)
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.81 + 1.0) / 4)
    assert found["auroc"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert found["confidence"] == pytest.approx(0.5)
    assert found["most_confident"] == pytest.approx(0.5)


def test_the_probability_of_the_answer_is_the_other_confidence():
    found = means(["confidence:probability", "brier:probability"], GIVEN[:2])
    assert found["confidence:probability"] == pytest.approx(0.6)
    assert found["brier:probability"] == pytest.approx((0.04 + 0.16) / 2)


def test_faults_and_episodes_without_signals_are_left_out():
    silent = Trajectory(EnvRef("e"), Task("c"), 0, [Turn((), Action("So the answer is 4"), 1.0)])
    more = [*GIVEN, episode("c", 1.0, 1.0, ending=Ending("fault", "x")), silent]
    assert means(NAMES, more) == pytest.approx(means(NAMES, GIVEN))
    assert all(math.isnan(mean) for mean in means(NAMES, [silent]).values())


def test_temperature_scaling_is_fitted_on_the_other_tasks_and_helps_the_overconfident():
    rng = np.random.default_rng(0)
    c = rng.uniform(0.9, 0.95, 2000)
    given = [episode(str(i), one, float(rng.uniform() < 0.6)) for i, one in enumerate(c)]
    found = means(["ece", "ece_scaled"], given)
    assert found["ece"] > 0.25
    assert found["ece_scaled"] < 0.1
    by_task = scaled_by_task(answers_by_task(given))
    changed = [*given]
    changed[0] = episode("0", float(c[0]), 1.0 - given[0].reward)  # a task's own success does not change its own scale
    assert scaled_by_task(answers_by_task(changed))[0][0][0] == by_task[0][0][0]
    flat = [answer for answers in by_task for answer in answers]
    assert found["ece_scaled"] == pytest.approx(calibration_error(*map(list, zip(*flat, strict=True))))


def test_an_unknown_confidence_is_refused():
    with pytest.raises(Exception, match="disparity"):
        measures_of(["ece:guess"])


def test_the_value_alone_is_that_of_the_estimate():
    for measure in measures_of([*NAMES, "ece:probability", "ece_scaled:probability"]):
        assert measure.value(GIVEN) == pytest.approx(measure(GIVEN).mean)
        assert math.isnan(measure.value([]))
