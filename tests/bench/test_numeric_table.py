"""The table and inputs of `benchmarks/numeric.py`: what is extracted, and differences paired by seed."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from agentrl.environments.numeric.datasets import Numbers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def module():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("numeric")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_numbers_of_a_text_are_extracted_in_order(module) -> None:
    found = module.extracted(Numbers(("2 hours and 30.5 minutes", "none"), (1.0, 2.0)))
    assert found.tolist() == [[2.0, 30.5, *[0.0] * 6], [0.0] * 8]


def test_measures_are_in_units_of_the_scale(module) -> None:
    found = module.measured(np.array([0.0, 10.0]), np.array([[0.0, 4.0], [10.0, 10.0]]), 2.0)
    assert found["sample"]["rmse"] == pytest.approx((4.0 / 4) ** 0.5)
    assert found["mean"]["mae"] == pytest.approx(0.5)


def test_the_head_learns_a_number_that_depends_on_the_order_of_words(module) -> None:
    """A bag of words cannot tell these texts from each other."""
    texts = [" ".join(words) for words in itertools.permutations(("red", "green", "blue"))]
    numbers = [10.0 * text.split().index("red") for text in texts]
    found = module.fit_head(texts * 20, numbers * 20, texts, seed=0, steps=60)
    assert np.abs(found - numbers).max() < 2.0


def test_differences_are_relative_and_paired_by_seed(module, tmp_path) -> None:
    rows = {
        "main sample": [0.9, 0.6],
        "main mean": [0.8, 0.5],
        "continued sample": [1.0, 0.8],
        "continued mean": [0.8, 0.5],
        "cross_entropy sample": [0.8, 0.8],
        "cross_entropy mean": [0.4, 1.0],
        "ridge": [0.4, 0.5],
        "forest": [0.9, 0.9],
    }
    for seed in (0, 1):
        cell = {"data": "x", "seed": seed, "kind": "k"}
        lines = [json.dumps({**cell, "row": r, "rmse": v[seed], "rmse_of_numbers": 1.0}) for r, v in rows.items()]
        (tmp_path / f"x-{seed}.jsonl").write_text("\n".join(lines) + "\n")
    table = module.table(tmp_path)
    # -10% and -25%; +12.5% and -25%; 0% twice; +100% and -50%; +100% and 0% to ridge, the best classical model.
    shown = "-17.5 ± 95.3 | 0.0 | -6.3 ± 238.2 | 0.0 | 0.0 | 25.0 ± 953.0 | 50.0 ± 635.3 (ridge)"
    assert f"| x | 2 | {shown} |" in table
    assert "| mean over data sets | | -17.5 | 0.0 | -6.3 | 0.0 | 0.0 | 25.0 | |" in table


def test_what_was_wanted_is_met_or_not(module, tmp_path) -> None:
    """x is a table, and reports a text; the main arm is 20% and 5% below continued cross-entropy."""
    cells = {"x": (0.8, 1.0, 0.81), "reports": (0.95, 1.0, 0.9)}
    for name, (main, continued, ridge) in cells.items():
        rows = {"main sample": main, "main mean": main, "continued sample": continued, "continued mean": continued}
        rows |= {"cross_entropy sample": 1.0, "cross_entropy mean": 1.0, "ridge": ridge}
        cell = {"data": name, "seed": 0, "kind": "k", "rmse_of_numbers": 1.0}
        lines = [json.dumps({**cell, "row": row, "rmse": value}) for row, value in rows.items()]
        (tmp_path / f"{name}-0.jsonl").write_text("\n".join(lines) + "\n")
    found = [line for line in module.table(tmp_path).splitlines() if line.endswith("met**")]
    assert [("-12.5%" in line, "not met" in line) for line in found] == [(True, False)] + [(False, False)] * 2 + [
        (False, True)
    ]


def test_a_table_has_its_features_alone_and_queries_words_as_well(module) -> None:
    table, queries = module.loaded("diabetes", 0), module.loaded("queries", 0)
    assert np.array_equal(module.inputs(table)[0], table.train.features)
    assert module.inputs(queries)[0].shape[1] > queries.train.features.shape[1] + 8
