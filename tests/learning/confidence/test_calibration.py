"""Calibration against scikit-learn and scipy (`calibration_sklearn.py`) and against hand-worked numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from agentrl.learning.confidence.calibration import (
    auroc,
    brier,
    calibration_error,
    fit_temperature,
    log_loss,
    reliability,
    scaled,
)

CASES = json.loads((Path(__file__).parent / "calibration.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES)
def test_numbers_equal_those_of_scikit_learn(case):
    given = case["confidences"], case["correct"]
    assert calibration_error(*given) == pytest.approx(case["ece"], abs=1e-9)
    assert calibration_error(*given, equal_mass=True) == pytest.approx(case["ece_equal_mass"], abs=1e-9)
    assert brier(*given) == pytest.approx(case["brier"], abs=1e-9)
    assert auroc(*given) == pytest.approx(case["auroc"], abs=1e-9)
    assert log_loss(*given) == pytest.approx(case["log_loss"], abs=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case["temperature"] is not None])
def test_the_temperature_is_the_one_that_scipy_finds(case):
    # The loss is flat at its minimum, so a minimiser of values knows the place to 1e-7 only.
    assert fit_temperature(case["confidences"], case["correct"]) == pytest.approx(case["temperature"], rel=1e-6)


def test_the_slope_of_the_log_loss_is_zero_at_the_temperature():
    c, y = CASES[2]["confidences"], np.array(CASES[2]["correct"])
    t = fit_temperature(c, y)
    logits = np.log(c) - np.log1p(-np.array(c))
    assert float(np.mean((scaled(c, t) - y) * logits)) == pytest.approx(0, abs=1e-9)


def test_three_answers_by_hand():
    # Bins: 0 and 0.1 in the first (mean 0.05, accuracy 0.5), 0.95 in the last (accuracy 0).
    assert calibration_error([0.0, 0.1, 0.95], [0, 1, 0]) == pytest.approx((2 * 0.45 + 0.95) / 3, abs=1e-12)
    first, *_, last = reliability([0.0, 0.1, 0.95], [0, 1, 0])
    assert (first.low, first.high, first.count, first.accuracy) == (0.0, 0.1, 2, 0.5)
    assert first.confidence == pytest.approx(0.05)
    assert (last.count, last.accuracy) == (1, 0.0)
    assert brier([0.0, 0.5], [0, 1]) == 0.125
    # Pairs of right and wrong: (0.5, 0.5) is a tie, (0.5, 0.2) is in order.
    assert auroc([0.5, 0.5, 0.2], [1, 0, 0]) == 0.75
    assert math.isnan(auroc([0.5, 0.5], [1, 1]))


def test_bins_of_equal_mass_hold_equally_many():
    bars = reliability(np.linspace(0.9, 1.0, 100), np.ones(100), equal_mass=True)
    assert [bar.count for bar in bars] == [10] * 10


def test_an_empty_bin_has_no_mean():
    bars = reliability([0.55], [1], bins=2)
    assert math.isnan(bars[0].accuracy)
    assert (bars[1].count, bars[1].confidence) == (1, 0.55)


def test_a_perfect_and_a_useless_order():
    assert auroc([0.1, 0.9], [0, 1]) == 1.0
    assert auroc([0.9, 0.1], [0, 1]) == 0.0


@pytest.mark.parametrize(
    ("confidences", "correct"), [([], []), ([0.5], [1, 0]), ([1.5], [1]), ([0.5], [0.5]), ([math.nan], [1])]
)
def test_what_is_no_confidence_is_refused(confidences, correct):
    with pytest.raises(ValueError, match="confidences"):
        calibration_error(confidences, correct)
