"""Measures of tool use: calls and errors per tool, and calls that could not be read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agentrl.bench.estimates import Estimate, cluster_bootstrap
from agentrl.bench.measures.base import SHARE, Measure, PerEpisode, scored, sums_by_task
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class ToolStatistics:
    """Calls of one tool over the scored episodes; `errors` are calls that came back as an error message."""

    calls: int = 0
    errors: int = 0
    episodes: int = 0


def tool_statistics(episodes: Iterable[Trajectory]) -> dict[str, ToolStatistics]:
    """Per tool, most called first.

    Args:
        episodes: those to count; the caller leaves out discarded ones.
    """
    calls, errors, users = Counter[str](), Counter[str](), Counter[str]()
    for episode in episodes:
        for name, numbers in tool_counts(episode).items():
            calls[name] += numbers["calls"]
            errors[name] += numbers["errors"]
            users[name] += 1
    return {name: ToolStatistics(number, errors[name], users[name]) for name, number in calls.most_common()}


def tool_counts(episode: Trajectory) -> Mapping[str, Mapping[str, int]]:
    """Tool -> `{calls, errors}` of one episode, as the environment counted them, else from the calls in the actions."""
    counted: Mapping[str, Mapping[str, int]] | None = episode.info.get("tool_stats")
    if counted is not None:
        return counted
    calls = Counter(call.name for turn in episode.turns for call in turn.action.tool_calls)
    return {name: {"calls": number, "errors": 0} for name, number in calls.items()}


def num_malformed_calls(episode: Trajectory) -> int:
    """Tool calls that could not be read."""
    return sum(call.error is not None for turn in episode.turns for call in turn.action.tool_calls)


@dataclass(frozen=True)
class ToolCalls(PerEpisode):
    """Calls per episode of one tool, or of all tools if no tool is named."""

    tool: str = ""
    unit = "calls"

    @property
    def name(self) -> str:
        return f"tool_calls:{self.tool}" if self.tool else "tool_calls"

    def of(self, episode: Trajectory) -> float:
        return float(_count(episode, self.tool, "calls"))


@dataclass(frozen=True)
class ToolErrors(Measure):
    """The share of calls that came back as an error message: of one tool, or of all tools if no tool is named."""

    tool: str = ""
    unit = SHARE

    @property
    def name(self) -> str:
        return f"tool_errors:{self.tool}" if self.tool else "tool_errors"

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        errors, calls = (partial(_count, tool=self.tool, what=what) for what in ("errors", "calls"))
        return cluster_bootstrap(sums_by_task(scored(episodes), errors, calls), ratio, resamples=500)


@dataclass(frozen=True)
class MalformedCalls(PerEpisode):
    """Tool calls per episode that could not be read."""

    name = "malformed_calls"
    unit = "calls"

    def of(self, episode: Trajectory) -> float:
        return float(num_malformed_calls(episode))


def _count(episode: Trajectory, tool: str, what: str) -> int:
    counts = tool_counts(episode)
    return sum(numbers[what] for name, numbers in counts.items() if tool in ("", name))


def ratio(pairs_C2: NDArray[np.float64]) -> float:
    """The sum of the firsts over the sum of the seconds; nan if the second sum is 0."""
    above, below = (float(total) for total in pairs_C2.sum(axis=0))
    return above / below if below else math.nan
