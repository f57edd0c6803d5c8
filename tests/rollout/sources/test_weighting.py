"""Weights of a mixture, by numbers worked out by hand."""

from __future__ import annotations

import pytest

from agentrl.rollout.sources.mixed.weighting import Difficulty, Fixed, Part, Progress, TaskCounts, Weighting


def found(weighting: Weighting, *parts: Part) -> list[float]:
    return [float(weight) for weight in weighting(parts)]


def test_fixed_weights_are_those_of_the_file() -> None:
    assert found(Fixed(), Part(3.0, 10), Part(1.0, 99, [0.5])) == [3.0, 1.0]


@pytest.mark.parametrize(("tau", "expected"), [(1.0, [1600, 200]), (2.0, [40, 20]), (1e9, [1, 2])])
def test_task_counts_are_raised_to_one_over_tau(tau: float, expected: list[float]) -> None:
    assert found(TaskCounts(tau), Part(1.0, 1600), Part(2.0, 100)) == pytest.approx(expected)


def test_difficulty_is_the_mean_variance_of_a_groups_reward() -> None:
    # The means of p (1 - p): (0.25 + 0) / 2 = 1/8; 3/16; nothing remembered: 1/4. Their sum is 9/16.
    parts = Part(1.0, 1, [0.5, 1.0]), Part(1.0, 1, [0.25]), Part(1.0, 1)
    assert found(Difficulty(explore=0.0), *parts) == pytest.approx([2 / 9, 3 / 9, 4 / 9])
    assert found(Difficulty(explore=0.3), *parts) == pytest.approx([0.1 + 0.7 * k / 9 for k in (2, 3, 4)])


def test_progress_is_the_distance_of_the_newer_half_from_the_older() -> None:
    # |1 - 0.25| = 3/4; |0 - 0.25| = 1/4: what is forgotten counts too; fewer than two groups: 1. Their sum is 2.
    parts = Part(1.0, 1, [0.0, 0.5, 1.0, 1.0]), Part(1.0, 1, [0.25, 0.0]), Part(1.0, 1, [0.5])
    assert found(Progress(explore=0.0), *parts) == pytest.approx([3 / 8, 1 / 8, 4 / 8])


@pytest.mark.parametrize("weighting", [Difficulty(), Progress()])
def test_the_weights_of_the_file_count_and_stay_where_nothing_is_left_to_learn(weighting: Weighting) -> None:
    assert found(weighting, Part(3.0, 1, [1.0, 1.0]), Part(1.0, 1, [0.0, 0.0])) == pytest.approx([0.75, 0.25])
    assert found(weighting, Part(3.0, 1), Part(1.0, 1)) == pytest.approx([0.75, 0.25])
