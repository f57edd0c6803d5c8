"""Tool use: calls, errors, and calls that could not be read, counted by hand."""

from __future__ import annotations

import math

import pytest

from agentrl.bench.measures.tools import MalformedCalls, ToolCalls, ToolErrors, ToolStatistics, tool_statistics
from agentrl.messages import Action, ToolCall
from tests.bench.measures.episodes import FAULT, episode, turn

# What the environment counted: task a calls `add` 3 times (1 error) and `look` once; task b calls `add` once.
COUNTED = [
    episode("a", info={"tool_stats": {"add": {"calls": 3, "errors": 1}, "look": {"calls": 1, "errors": 1}}}),
    episode("b", info={"tool_stats": {"add": {"calls": 1, "errors": 0}}}),
    episode("b", ending=FAULT, info={"tool_stats": {"add": {"calls": 9, "errors": 9}}}),
]


def test_statistics_per_tool_come_most_called_first() -> None:
    statistics = tool_statistics(COUNTED[:2])
    assert list(statistics.items()) == [("add", ToolStatistics(4, 1, 2)), ("look", ToolStatistics(1, 1, 1))]


def test_tools_of_environments_that_count_nothing_come_from_the_actions() -> None:
    one = episode("a", turn(Action(tool_calls=(ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2})))))
    assert tool_statistics([one, one])["add"].calls == 4
    assert ToolCalls("add")([one]).mean == 2.0


def test_calls_per_episode() -> None:
    assert (ToolCalls().name, ToolCalls("add").name) == ("tool_calls", "tool_calls:add")
    assert (ToolCalls()(COUNTED).mean, ToolCalls("add")(COUNTED).mean, ToolCalls("look")(COUNTED).mean) == (2.5, 2, 0.5)


def test_the_share_of_calls_that_fail() -> None:
    assert ToolErrors()(COUNTED).mean == pytest.approx(2 / 5)
    estimate = ToolErrors("add")(COUNTED)
    assert (estimate.mean, estimate.n) == (1 / 4, 2)
    assert estimate.ci95 == pytest.approx((0.0, 1 / 3))  # both resamples of one task alone are drawn often enough
    assert math.isnan(ToolErrors("absent")(COUNTED).mean)


def test_malformed_calls_per_episode() -> None:
    broken = ToolCall("add", {}, error="no JSON")
    episodes = [episode("a", turn(Action(tool_calls=(broken, broken)))), episode("b")]
    assert MalformedCalls()(episodes).mean == 1.0
