"""The table of `benchmarks/bfloat16.py`: pairs of seeds and tasks, at the steps that all runs have."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def module():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("bfloat16")
    finally:
        sys.path.remove(str(BENCHMARKS))


def cell(dtype, seed, curve, kind="rl"):
    held_out = {"greedy": [1, 0, 1, 1], "sampled": [1, 0, 0, 1 if dtype == "float32" else 0]}
    more = {"nll": 0.25} if kind == "copied" else {"curve": curve}
    return {"env": "shop", "seed": seed, "arm": f"{kind}-{dtype}", "cpu_s": 10.0, **more, **held_out}


def test_curves_are_paired_at_shared_steps_and_seeds(module):
    cells = [cell("float32", seed, {"0": [0, 1, 0, 1], "4": [1, 1, 0, 1]}) for seed in (1, 2, 3)]
    cells += [cell("bfloat16", seed, {"0": [0, 1, 0, 1], "4": [1, 1, 1, 1], "8": [1, 1, 1, 1]}) for seed in (1, 2)]
    found = module.points(cells)
    assert list(found) == ["0", "4"]
    assert found["0"][:2] == (0.5, 0.5)
    assert found["0"][2].ci95 == (0.0, 0.0)
    assert found["4"][:2] == (0.75, 1.0)
    assert found["4"][2].mean == 0.25


def test_the_table_says_the_difference_and_leaves_out_what_is_missing(module):
    cells = [cell(dtype, 1, {"0": [0, 1]}) for dtype in module.TYPES]
    lines = module.markdown(cells)
    assert any(line.startswith("| rl, sampled | 1 | 0.500 | 0.250 | -0.250 [") for line in lines)
    assert not any("copied" in line for line in lines)
    lines = module.markdown([*cells, *(cell(dtype, 1, {}, "copied") for dtype in module.TYPES)])
    assert any(line.startswith("| loss at the end, nats a token | 1 | 0.2500 | 0.2500 |") for line in lines)
