"""The simulation of `benchmarks/scale_simulation.py` against times that can be worked out by hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("scale_parts.simulation")
    finally:
        sys.path.remove(str(BENCHMARKS))


FULL = {"learn_s": 0.5, "fixed_s": 1.0, "pack_s": 0.25, "unpack_s": 0.125, "push_s": 0.03125, "message_s": 0.0625}
CASES: dict[str, tuple[dict[str, Any], dict[str, int], float]] = {
    # 4 groups of 2 s, one after the other, on one sampler; then the learner.
    "one sampler": ({"learn_s": 0.5, "fixed_s": 1.0}, {"workers": 1}, 4 * 2 + 4 * 0.5 + 1),
    "two samplers": ({"learn_s": 0.5, "fixed_s": 1.0}, {"workers": 2}, 2 * 2 + 4 * 0.5 + 1),
    "three samplers": ({"learn_s": 0.5}, {"workers": 3}, 2 * 2 + 4 * 0.5),
    "more samplers than groups": ({"learn_s": 0.5}, {"workers": 9}, 2 + 4 * 0.5),
    "two at once": ({"learn_s": 0.5}, {"workers": 1, "slots": 2}, 2 * 2 + 4 * 0.5),
    # A sampler of 4 slots begins a second group of 3 when it has fewer than 4 episodes; two of that wait for a slot.
    "groups overlap": ({"learn_s": 0.5}, {"workers": 1, "groups": 2, "episodes": 3, "slots": 4}, 2 + 2 + 2 * 0.5),
    "groups fill the slots": ({"learn_s": 0.5}, {"workers": 1, "episodes": 2, "slots": 4}, 2 * 2 + 4 * 0.5),
    "overlap, samplers are slower": ({"learn_s": 0.5}, {"workers": 1, "lag": 1}, 4 * 2),
    "overlap, the learner is slower": ({"learn_s": 1.5}, {"workers": 4, "lag": 1}, 4 * 1.5),
    # A group is sent in half a message and comes back in half a one; the last of four waits for the others.
    "messages": ({"learn_s": 0.5, "message_s": 0.5}, {"workers": 4}, 4 * 0.25 + 2 + 0.25 + 4 * 0.5),
    # Weights are packed, pushed to one sampler after the other, and taken before the next groups, two on each sampler.
    "weights": (
        {"learn_s": 0.0, "pack_s": 0.25, "push_s": 0.5, "unpack_s": 0.125},
        {"workers": 2},
        0.25 + 2 * 0.5 + 0.125 + 2 * 2,
    ),
    "only weights": ({"episode_s": (0.0,), "learn_s": 0.0, "pack_s": 0.25}, {"workers": 1}, 0.25),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_what_can_be_worked_out(simulation: ModuleType, name: str) -> None:
    costs, plan, seconds = CASES[name]
    made = simulation.Costs(**{"episode_s": (2.0,), **costs})
    found = simulation.steps_per_s(made, simulation.Plan(**{"groups": 4, **plan}))
    assert 1 / found == pytest.approx(seconds)


def test_groups_take_what_was_drawn_and_a_step_waits_for_the_last(simulation: ModuleType) -> None:
    """The expectation of the larger of two draws from 1 s and 3 s is 2.5 s."""
    costs = simulation.Costs((1.0, 3.0), learn_s=0.0)
    found = simulation.steps_per_s(costs, simulation.Plan(2, 2), steps=1003, runs=4)
    assert 1 / found == pytest.approx(2.5, rel=0.03)


def test_weights_hold_up_groups_that_are_being_played(simulation: ModuleType) -> None:
    """At lag 1 a sampler that is never idle plays 4 groups a step and takes weights once."""
    costs = simulation.Costs((2.0,), learn_s=0.1, unpack_s=0.5)
    assert 1 / simulation.steps_per_s(costs, simulation.Plan(1, 4, lag=1)) == pytest.approx(4 * 2 + 0.5)


def test_the_bottleneck_moves_from_samplers_to_the_learner_or_the_driver(simulation: ModuleType) -> None:
    def bottleneck(workers: int, **changes: float) -> str:
        costs = simulation.Costs((2.0,), **{**FULL, **changes})
        gains = simulation.gains(costs, simulation.Plan(workers, 32, lag=1))
        assert all(gain > 0.99 for gain in gains.values())
        return str(max(gains, key=lambda part: gains[part]))

    small = {"message_s": 0.001, "push_s": 0.001, "unpack_s": 0.001}
    assert bottleneck(1, **small) == "sampling"
    assert bottleneck(32, **small) == "learner"
    assert bottleneck(32, **{**small, "learn_s": 0.001, "fixed_s": 0.0, "message_s": 0.5}) == "driver"
    assert bottleneck(256, **{**small, "learn_s": 0.001, "fixed_s": 0.0, "push_s": 0.1}) == "broadcast"
