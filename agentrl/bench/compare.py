"""Two benchmarks compared task by task. Owns the pairing; the formula is in `agentrl.bench.estimates`."""

from __future__ import annotations

from agentrl.bench.estimates import Estimate, paired_difference
from agentrl.bench.measures.base import PerEpisode
from agentrl.bench.measures.success import Success
from agentrl.bench.result import BenchResult

SUCCESS = Success()


def compare(first: BenchResult, second: BenchResult, measure: PerEpisode = SUCCESS) -> Estimate:
    """The difference `first - second` on the tasks that both played, paired by task.

    Args:
        measure: what is compared: the success rate, or another mean over episodes.
    """
    return paired_difference(measure.values_by_task(first.trajectories), measure.values_by_task(second.trajectories))
