"""The parts of a reward for tool calls, worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from agentrl.env.tool_match import tool_match
from agentrl.messages import ToolCall


def calls(*made):
    return [ToolCall(name, arguments) for name, arguments in made]


def test_exactly_the_wanted_calls_in_any_order_earn_everything():
    wanted = calls(("search", {"q": "tea", "n": 3}), ("buy", {"id": 7}))
    match = tool_match(wanted[::-1], wanted)
    assert (match.names, match.parameters, match.values, match.most) == (1.0, 2.0, 3.0, 1 + 2 + 3)
    assert (match.share, match.score) == (1.0, 3.0)
    assert tool_match([], []).score == 3.0


def test_parts_by_hand():
    """One of three names agrees; of its parameters one of three, with another value."""
    match = tool_match(
        calls(("search", {"q": "mug", "page": 2}), ("pay", {})), calls(("search", {"q": "tea", "n": 3}), ("buy", {}))
    )
    assert match.names == pytest.approx(1 / 3)
    assert match.parameters == pytest.approx(1 / 3)
    assert match.values == 0
    assert match.score == pytest.approx(6 * (2 / 3) / (1 + 2 + 2) - 3)


def test_no_call_earns_the_least():
    assert tool_match([], calls(("buy", {"id": 7}))).score == -3.0


def test_a_call_that_could_not_be_read_agrees_with_nothing():
    broken = ToolCall("buy", {"id": 7}, error="no JSON")
    assert tool_match([broken], calls(("buy", {"id": 7}))).score == -3.0


def test_numbers_and_truth_values_are_told_apart():
    assert tool_match(calls(("set", {"on": 1})), calls(("set", {"on": True}))).values == 0
    assert tool_match(calls(("set", {"on": 1.0})), calls(("set", {"on": 1}))).values == 1


def test_calls_of_one_tool_are_assigned_as_well_as_they_can_be():
    """The first wanted call would take, greedily, what only the second can use."""
    wanted = calls(("f", {"a": 1}), ("f", {"a": 1, "b": 2}))
    made = calls(("f", {"a": 1, "b": 2}), ("f", {"a": 1, "b": 3}))
    match = tool_match(made, wanted)
    assert match.values == 1 + 2
    assert match.parameters == pytest.approx(0.5 + 1.0)


def test_the_assignment_is_the_best_of_all():
    for seed in range(50):
        rng = np.random.default_rng(seed)

        def draw(count, rng=rng):
            return calls(
                *(("f", {k: int(rng.integers(0, 2)) for k in "abc" if rng.random() < 0.7}) for _ in range(count))
            )

        wanted, made = draw(int(rng.integers(1, 4))), draw(int(rng.integers(1, 5)))
        match = tool_match(made, wanted)
        padded = [*made, *[None] * len(wanted)]
        best = max(
            sum(alone(one, other) for one, other in zip(wanted, order, strict=True) if other is not None)
            for order in itertools.permutations(padded, len(wanted))
        )
        assert match.parameters + match.values == pytest.approx(best)


def alone(one, other):
    match = tool_match([other], [one])
    return match.parameters + match.values


def test_hundreds_of_calls_are_compared_at_once():
    """A model may write very many; then each wanted call takes the best that is left."""
    made = calls(*(("f", {"a": n}) for n in range(300)))
    match = tool_match(made, calls(("f", {"a": 299}), ("f", {"a": 0})))
    assert match.share == 1.0
