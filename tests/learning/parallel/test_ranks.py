"""Two real processes that share each step's rows end where one process does, and both at the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.learning.batches import shares
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.rows import Row
from tests.learning.parallel.two_ranks import GRADIENTS, UPDATES, in_pairs, outcome_of

Found = list[dict[str, Any]]


def difference(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of any entry, over the largest entry of all."""
    assert left.keys() == right.keys()
    scale = max(float(value.abs().max()) for value in right.values())
    assert scale > 0
    return max(float((left[name] - right[name]).abs().max()) for name in right) / scale


def assert_equal_bits(one: Any, other: Any) -> None:
    for name in ("gradients", "weights"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.keys() == right.keys()
        assert [key for key in left if not torch.equal(left[key], right[key])] == []
    assert one.metrics == other.metrics


@pytest.mark.parametrize("name", GRADIENTS)
async def test_no_gradient_depends_on_the_number_of_ranks(found: Found, name: str) -> None:
    case = GRADIENTS[name]
    alone = await outcome_of(case, Ranks())
    first, second = (rank[name] for rank in found)
    assert_equal_bits(first, second)
    assert difference(first.gradients, alone.gradients) < 1e-6
    assert first.metrics == [pytest.approx(step, rel=1e-5, abs=1e-7) for step in alone.metrics]


@pytest.mark.parametrize("name", [name for name in UPDATES if name != "not finite"])
async def test_ranks_update_as_one_process_does(found: Found, name: str) -> None:
    """Clipped to the norm of the sum, in several minibatches of two steps, the columns filled by shares."""
    case = UPDATES[name]
    alone = await outcome_of(case, Ranks())
    first, second = (rank[name] for rank in found)
    assert_equal_bits(first, second)
    # A forward pass in bfloat16 rounds by the shape of the micro-batch.
    assert difference(first.weights, alone.weights) < (1e-3 if case.dtype == torch.bfloat16 else 1e-6)
    if case.dtype == torch.float64:  # as clipped in the last update
        assert difference(first.gradients, alone.gradients) < 1e-6
    for one, other, whole in zip(first.filled, second.filled, alone.filled, strict=True):
        for column in case.filled:
            assert np.array_equal(one[column], other[column])
            assert one[column] == pytest.approx(whole[column], abs=1e-5)
    if case.dtype != torch.bfloat16:
        assert first.metrics == [pytest.approx(step, rel=1e-4, abs=1e-6) for step in alone.metrics]


async def test_an_infinite_gradient_of_one_rank_is_skipped_by_both(found: Found) -> None:
    alone = await outcome_of(UPDATES["not finite"], Ranks())
    first, second = (rank["not finite"] for rank in found)
    assert [step["grad/skipped"] for step in first.metrics] == [1.0, 0.0]
    assert [key for key in first.weights if not torch.equal(first.weights[key], second.weights[key])] == []
    assert difference(first.weights, alone.weights) < 1e-6


def test_ranks_that_cannot_work_together_are_all_told_why(found: Found) -> None:
    for said in (rank["refusals"] for rank in found):
        assert "the ranks have different weights, learner settings or objectives" in said["weights"]
        assert "build the model from the same seed" in said["settings"]
        assert "give all of them the rows of the whole step" in said["rows"]
        assert "learner.max_mismatch is 0.1" in said["mismatch"]
        assert "the ranks gave 1, 2 items" in said["parts"]


def test_parts_come_together_in_order(found: Found) -> None:
    for rank in found:
        assert rank["whole"] == [f"item {number}" for number in range(7)]
    assert [Ranks(rank, 3).part("abcde") for rank in range(3)] == [["a", "d"], ["b", "e"], ["c"]]


def row(length: int, number: int) -> Row:
    return Row.of(range(length), [False, *[True] * (length - 1)], trajectory=number, unit=number // 2)


def test_rows_are_shared_out_evenly_and_units_are_not_torn() -> None:
    rows = [row(length, number) for number, length in enumerate((9, 2, 7, 3, 5, 4))]
    # 9 | 7 | then 5 to the second (12), 4 to the first (13), 3 to the second (15), 2 to the first (15).
    assert shares(rows, 2) == [[0, 1, 5], [2, 3, 4]]
    # Pairs of 11, 10 and 9 tokens.
    assert shares(rows, 2, "pair") == [[0, 1], [2, 3, 4, 5]]
    assert shares(rows[:1], 3) == [[0], [], []]
    assert shares(rows, 1) == [[0, 1, 2, 3, 4, 5]]


def test_a_row_counts_with_the_tokens_that_go_through_the_model() -> None:
    """Tokens after the last trained one do not; a row that trains nothing costs nothing."""
    long = Row.of(range(20), [False, True, *[False] * 18], trajectory=0)
    idle = Row.of(range(30), [False] * 30, trajectory=1)
    assert shares([long, idle, row(3, 2), row(2, 3)], 2) == [[1, 2], [0, 3]]


def test_every_row_is_in_one_share() -> None:
    rows = in_pairs(0)
    for count in (1, 2, 3, 20):
        found = shares(rows, count)
        assert sorted(number for share in found for number in share) == list(range(len(rows)))
