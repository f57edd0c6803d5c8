"""The table of `benchmarks/algorithms.py`: equal tokens, pairs, and verdicts over all environments."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from agentrl.env.registry import make, reference
from agentrl.training.algorithms import ALGORITHMS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def module():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("algorithms")
    finally:
        sys.path.remove(str(BENCHMARKS))


def cell(env, arm, seed, sampled, curve=((100, 0.5),)):
    numbers = {"cpu_s": 9.0, "steps": 1, "sampled_tokens": 100.0, "trained_tokens": 90.0}
    return {"env": env, "arm": arm, "seed": seed, "greedy": sampled, "sampled": sampled, "curve": curve, **numbers}


def test_the_area_is_the_mean_success_of_a_token(module):
    curve = cell("shop", "ppo", 1, [1], [(100, 0.2), (300, 0.6)])
    assert module.area(curve, 1000) == pytest.approx((100 * 0.2 + 300 * 0.6) / 400)
    assert module.area(curve, 200) == pytest.approx((100 * 0.2 + 100 * 0.6) / 200)


def test_curves_are_compared_over_the_tokens_that_both_have(module):
    cells = [cell("shop", "grpo", seed, [1], [(100, 0.5)]) for seed in (1, 2)]
    cells += [cell("shop", "ppo", seed, [1], [(100, 0.5 + seed / 10), (900, 1.0)]) for seed in (1, 2)]
    assert module.area_difference(cells, "ppo").mean == pytest.approx(0.15)
    assert module.area_difference(cells[:3], "ppo") is None


def test_an_algorithm_is_better_only_where_every_environment_says_so(module):
    half, solved = [0, 1] * 50, [1] * 100
    cells = [cell(env, "grpo", seed, half) for env in ("shop", "lake-1") for seed in (1, 2)]
    cells += [cell(env, arm, s, solved) for env in ("shop", "lake-1") for s in (1, 2) for arm in ("ppo", "remax")]
    cells = [c if (c["env"], c["arm"]) != ("shop", "remax") else {**c, "sampled": half} for c in cells]
    *rows, better, worse = module.markdown(cells)
    assert better == "Clearly better than grpo in every environment: ppo."
    assert worse.endswith("none.")
    (row,) = [row for row in rows if row.startswith("| remax |") and "undecided" in row]
    assert "+0.000 [+0.000, +0.000]" in row


def test_every_arm_is_an_algorithm_and_every_environment_names_its_states(module):
    """Forked credit may be missing: it is left out where it is."""
    assert set(module.ARMS) - {"forked"} <= set(ALGORITHMS.names)
    for name in module.TOKENS:
        env_id, kwargs = importlib.import_module("learning_table").ENVIRONMENTS[name]
        env = make(reference(env_id, **kwargs))
        env.reset(seed=0)
        assert env.unwrapped.state_key() is not None
        env.close()
