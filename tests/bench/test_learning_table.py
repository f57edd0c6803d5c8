"""The intervals and the table of `benchmarks/learning_table.py`, and its control."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from agentrl.bench.estimates import mean_interval, t_quantile
from agentrl.env.registry import make, reference
from agentrl.learning.credit.group_relative import GRPO
from agentrl.messages import Action
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup, Turn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return [importlib.import_module(name) for name in ("learning_intervals", "learning_table", "shuffled_credit")]
    finally:
        sys.path.remove(str(BENCHMARKS))


def cell(arm, seed, sampled, env="guess"):
    return {
        "env": env,
        "seed": seed,
        "arm": arm,
        "cpu_s": 50.0,
        "greedy": [1] * len(sampled),
        "sampled": sampled,
        "groups": {"all_0": 1, "all_1": 2, "differ": 3},
    }


def test_one_seed_has_the_interval_over_tasks(modules):
    differences = [1.0, 0.0, 0.0, -1.0, 1.0, 1.0]
    found, expected = modules[0].paired_interval([differences]), mean_interval(differences)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_seeds_that_disagree_widen_the_interval(modules):
    """Worked by hand: seeds at 0 and 1, tasks alike: the variance between seeds, 1/2, over 2; one degree of freedom."""
    found = modules[0].paired_interval([[0.0] * 10, [1.0] * 10])
    assert found.mean == 0.5
    assert found.high - 0.5 == pytest.approx(t_quantile(1) * 0.5)
    assert modules[0].paired_interval([[0.0] * 10] * 2).ci95 == (0.0, 0.0)


def test_independent_cells_have_the_variance_of_their_mean(modules):
    rng = np.random.default_rng(0)
    d = rng.choice([-1.0, 0.0, 1.0], (40, 400))
    found = modules[0].paired_interval(d.tolist())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * d.std() / math.sqrt(d.size), rel=0.35)


def test_the_table_pairs_seeds_and_needs_both_differences_for_a_verdict(modules):
    intervals = modules[0]
    half, all_solved = [0, 1] * 50, [1] * 100
    cells = [cell("before", 1, half), cell("rl", 1, all_solved)]
    (*_, row) = intervals.markdown(cells, ["guess", "shop"])
    assert "| 1.000/0.500 | 1.000/1.000 | +0.500 [" in row
    assert "better" not in row
    (*_, row) = intervals.markdown([*cells, cell("further", 1, half)], ["guess"])
    assert "better" in row
    assert "1/2/3" in row
    assert "| 100 |" in row
    (*_, row) = intervals.markdown([*cells, cell("further", 1, all_solved)], ["guess"])
    assert "undecided" in row
    (*_, row) = intervals.markdown([*cells[:1], cell("rl", 1, [0] * 100), cell("further", 1, half)], ["guess"])
    assert "worse" in row


def test_a_line_that_was_cut_off_is_computed_again(modules, tmp_path):
    (tmp_path / "guess-1.jsonl").write_text('{"arm": "before"}\n{"arm": "r')
    assert modules[0].Cells.read(tmp_path / "guess-1.jsonl") == [{"arm": "before"}]
    assert modules[0].Cells.read(tmp_path / "none.jsonl") == []


def test_every_environment_of_the_table_has_its_demonstrators(modules):
    for env_id, kwargs in modules[1].ENVIRONMENTS.values():
        env = make(reference(env_id, **kwargs))
        assert set(modules[1].DEMONSTRATORS) <= set(env.unwrapped.demonstrators)
        assert len(env.tasks.split("eval")) >= modules[1].TASKS
        env.close()


def test_the_control_keeps_the_advantages_and_changes_who_has_them(modules):
    def played(reward, number):
        turns = (Turn(action=Action("x"), observation=(), reward=reward),)
        return Trajectory(EnvRef("test/T-v0"), Task("t", "train", {}), number, turns)

    groups = [
        TrajectoryGroup(f"g{g}", [played(float(g == 0 and i < 3), 8 * g + i) for i in range(8)]) for g in range(2)
    ]
    earned, given = GRPO()(groups, None).advantages, modules[2].ShuffledGRPO()(groups, None).advantages
    flat = [[float(one[0]) for group in made for one in group] for made in (earned, given)]
    assert sorted(flat[0]) == pytest.approx(sorted(flat[1]))
    assert flat[0] != pytest.approx(flat[1])
