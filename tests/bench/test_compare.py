"""Two agents on the same tasks: the difference is taken task by task."""

from __future__ import annotations

import pytest

from agentrl.bench.compare import compare
from agentrl.bench.measures.effort import Turns
from agentrl.bench.runner import run_bench
from tests.bench.toys import Adder, Some


def test_two_agents_are_compared_task_by_task() -> None:
    good, better = run_bench(Adder, Some(right=4)), run_bench(Adder, Some(right=6))
    difference = compare(better, good)
    assert (difference.mean, difference.n) == (0.25, 8)
    assert difference.low == pytest.approx(0.25 - 2.364624 * (0.4629100 / 8**0.5), abs=1e-5)


def test_tasks_that_one_agent_never_finished_are_left_out() -> None:
    difference = compare(run_bench(Adder, Some(right=4, broken=[7])), run_bench(Adder, Some(right=6)))
    assert (difference.mean, difference.n) == (-2 / 7, 7)


def test_another_measure_is_compared() -> None:
    assert compare(run_bench(Adder, Some()), run_bench(Adder, "null"), Turns()).mean == 1.0
