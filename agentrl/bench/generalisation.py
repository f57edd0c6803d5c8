"""The generalisation matrix of arms over several environments: trained on rows, tested on columns; and forgetting.

Owns what is compared with what, from the outcomes that summaries hold. Formulas of intervals are in `estimates` and
`jackknife`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from agentrl.bench.environments import mean_over
from agentrl.bench.estimates import Estimate, clustered_proportion, paired_over_seeds
from agentrl.bench.statistics.jackknife import over_seeds
from agentrl.bench.verdicts import attempted_outcomes

ByTask = Mapping[str, Sequence[float]]
"""Task id -> success of its episodes."""


@dataclass(frozen=True)
class EnvironmentRun:
    """What the summary of one finished run says about its environments.

    Attributes:
        trained: names of the environments that the run learnt from.
        evaluations: of each evaluating stage, in order: mode -> environment -> outcomes by task, where discarded
            episodes are failures.
    """

    trained: Sequence[str]
    evaluations: Sequence[Mapping[str, Mapping[str, ByTask]]]

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> EnvironmentRun | None:
        """From a summary.json; None for a run with one environment."""
        tables = [s for s in summary["stages"].values() if s.get("environments") and "outcomes" in s]
        if not tables:
            return None
        names = tables[-1]["environments"]
        evaluations = [{mode: _split(of, names) for mode, of in attempted_outcomes(table).items()} for table in tables]
        return cls([name for name, found in names.items() if found["trains"]], evaluations)


def _split(outcomes: ByTask, names: Mapping[str, Any]) -> dict[str, dict[str, Sequence[float]]]:
    """Outcomes by environment, of tasks that are named `NAME/ID`."""
    found: dict[str, dict[str, Sequence[float]]] = {name: {} for name in names}
    for task, values in outcomes.items():
        found[task.partition("/")[0]][task] = values
    return found


@dataclass(frozen=True)
class Cell:
    """One arm on one environment.

    Attributes:
        trained: whether the arm learnt from it.
        success: in the last evaluation, over tasks and seeds.
        gain: success in the last evaluation minus that in the first; None where there is one evaluation.
        forgetting: the best success before the last evaluation minus that in the last; None likewise.
    """

    trained: bool
    success: Estimate
    gain: Estimate | None
    forgetting: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        shown = {name: getattr(self, name) for name in ("success", "gain", "forgetting")}
        return {"trained": self.trained, **{name: None if e is None else e.to_json() for name, e in shown.items()}}


@dataclass(frozen=True)
class GeneralisationRow:
    """One arm in one mode.

    Attributes:
        arm, mode, seeds: of the runs.
        cells: by environment.
        over: mean success over all environments, those that the arm trained on and the others, and the lowest of each.
    """

    arm: str
    mode: str
    seeds: Sequence[int]
    cells: Mapping[str, Cell]
    over: Mapping[str, Spread]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "arm": self.arm,
            "mode": self.mode,
            "seeds": list(self.seeds),
            "cells": {name: cell.to_json() for name, cell in self.cells.items()},
            "over": {kind: spread.to_json() for kind, spread in self.over.items()},
        }


@dataclass(frozen=True)
class Spread:
    """Success over several environments: the mean, each with the same weight, and the lowest."""

    mean: Estimate
    lowest: str
    lowest_success: Estimate

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"mean": self.mean.to_json(), "min": {"env": self.lowest, **self.lowest_success.to_json()}}


@dataclass(frozen=True)
class Against:
    """The main arm on an environment, and the arm that trains on this environment alone.

    Attributes:
        env, mode, arm: the environment, and the name of the arm.
        difference: success of the main arm minus that of the other, on the same tasks and seeds.
        of_success: success of the main arm as a share of the other's: the share of the gain where the training began
            with a model that solves nothing.
        of_gain: the gain of the main arm from the first to the last evaluation as a share of the other's gain.
    """

    env: str
    mode: str
    arm: str
    difference: Estimate
    of_success: Estimate
    of_gain: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        shown = {name: getattr(self, name) for name in ("difference", "of_success", "of_gain")}
        plain = {"env": self.env, "mode": self.mode, "arm": self.arm}
        return {**plain, **{name: None if e is None else e.to_json() for name, e in shown.items()}}


@dataclass(frozen=True)
class Generalisation:
    """Arms and environments.

    Attributes:
        environments: the columns.
        held_out: those that the main arm does not train on.
        rows: by mode and arm, the main arm first.
        alone: for each environment with an arm that trains on it alone, how the main arm compares with that.
    """

    environments: Sequence[str]
    held_out: Sequence[str]
    rows: Sequence[GeneralisationRow]
    alone: Sequence[Against]

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "environments": list(self.environments),
            "held_out": list(self.held_out),
            "rows": [row.to_json() for row in self.rows],
            "alone": [one.to_json() for one in self.alone],
        }


Runs = Mapping[int, EnvironmentRun]
"""Seed -> its run."""


def generalisation(arms: Mapping[str, Runs], modes: Sequence[str]) -> Generalisation | None:
    """The matrix of arms by name, the main one first; None where its runs have one environment.

    Args:
        arms: runs of each; arms without runs are left out.
        modes: of the evaluations, such as `greedy`.
    """
    arms = {name: runs for name, runs in arms.items() if runs}
    main = next(iter(arms.values()), None)
    if not main:
        return None
    first = next(iter(main.values()))
    names = list(first.evaluations[-1][modes[0]])
    rows = [_row(name, runs, mode) for mode in modes for name, runs in arms.items()]
    others = {name: runs for name, runs in arms.items() if runs is not main}
    alone = [
        _against(env, mode, main, name, runs)
        for mode in modes
        for name, runs in others.items()
        for env in _only(runs, first)
        if any(seed in main for seed in runs)
    ]
    return Generalisation(names, [name for name in names if name not in first.trained], rows, alone)


def _only(runs: Runs, main: EnvironmentRun) -> Sequence[str]:
    """The one environment that an arm learns from, if the main arm learns from it and from others."""
    trained = next(iter(runs.values())).trained
    return trained if len(trained) == 1 < len(main.trained) and trained[0] in main.trained else ()


def _row(arm: str, runs: Runs, mode: str) -> GeneralisationRow:
    trained = next(iter(runs.values())).trained
    names = next(iter(runs.values())).evaluations[-1][mode]
    cells = {name: _cell(list(runs.values()), mode, name, trained=name in trained) for name in names}
    kinds = {
        "all": list(names),
        "trained": [name for name in names if name in trained],
        "held_out": [name for name in names if name not in trained],
    }
    over = {kind: _spread({name: cells[name].success for name in own}) for kind, own in kinds.items() if own}
    return GeneralisationRow(arm, mode, list(runs), cells, over)


def _spread(found: Mapping[str, Estimate]) -> Spread:
    lowest = min(found, key=lambda name: found[name].mean)
    return Spread(mean_over(list(found.values())), lowest, found[lowest])


def _cell(runs: Sequence[EnvironmentRun], mode: str, env: str, *, trained: bool) -> Cell:
    evaluations = [[evaluation[mode][env] for evaluation in run.evaluations] for run in runs]
    count = min(map(len, evaluations))
    if count < 2:
        return Cell(trained, success_over_seeds([of[-1] for of in evaluations]), None, None)
    last = [of[-1] for of in evaluations]
    earlier = [[of[number] for of in evaluations] for number in range(count - 1)]
    best = max(earlier, key=lambda of_seeds: success_over_seeds(of_seeds).mean)
    return Cell(
        trained,
        success_over_seeds(last),
        gain=paired_over_seeds(last, earlier[0], same_seeds=True),
        forgetting=forgetting(best, last),
    )


def success_over_seeds(seeds: Sequence[ByTask]) -> Estimate:
    """Success over tasks and seeds, inside [0, 1].

    The interval is that over tasks with the seeds' episodes pooled (Wilson's), and no narrower than the one that takes
    the seeds to be random too (`over_seeds`), where that is known.
    """
    shared = [task for task in seeds[0] if all(len(of_seed.get(task, ())) for of_seed in seeds)]
    pooled = clustered_proportion([[x for of_seed in seeds for x in of_seed[task]] for task in shared])
    found = over_seeds(seeds, fmean)
    if len(seeds) == 1 or not math.isfinite(found.high - found.low):
        return pooled
    return replace(pooled, low=min(pooled.low, max(found.low, 0.0)), high=max(pooled.high, min(found.high, 1.0)))


def forgetting(best: Sequence[ByTask], last: Sequence[ByTask]) -> Estimate:
    """Best earlier success minus the last one, on the same tasks and seeds; below 0 where it became better.

    Args: best, last: of each seed the outcomes by task.
    Source: Chaudhry et al. 2018, arXiv:1801.10112, eq. 3.
    """
    return paired_over_seeds(best, last, same_seeds=True)


def _against(env: str, mode: str, main: Runs, arm: str, alone: Runs) -> Against:
    both = [seed for seed in alone if seed in main]
    ours, theirs = [main[seed].evaluations for seed in both], [alone[seed].evaluations for seed in both]

    def of(evaluations: Sequence[Sequence[Mapping[str, Mapping[str, ByTask]]]], number: int) -> list[ByTask]:
        return [of_seed[number][mode][env] for of_seed in evaluations]

    nothing = [{task: [0.0] * len(values) for task, values in of_seed.items()} for of_seed in of(ours, -1)]
    starts = [of(ours, 0), of(theirs, 0)] if min(map(len, (*ours, *theirs))) > 1 else None
    ends = of(ours, -1), of(theirs, -1)
    return Against(
        env,
        mode,
        arm,
        difference=paired_over_seeds(*ends, same_seeds=True),
        of_success=share_of_gain(ends[0], nothing, ends[1], nothing),
        of_gain=None if starts is None else share_of_gain(ends[0], starts[0], ends[1], starts[1]),
    )


def share_of_gain(
    after: Sequence[ByTask], before: Sequence[ByTask], other_after: Sequence[ByTask], other_before: Sequence[ByTask]
) -> Estimate:
    """(after - before) / (other_after - other_before), each a success rate over all tasks and seeds.

    The interval is that of `over_seeds`, for the ratio of each seed; its centre is the ratio of the pooled rates.

    Args: all: of each seed the outcomes by task.
    Returns: nan where the other gain is 0.
    """
    parts = (after, before, other_after, other_before)
    seeds = [
        {
            task: [tuple(fmean(of[seed][task]) for of in parts)]
            for task in after[seed]
            if all(of[seed].get(task) for of in parts)
        }
        for seed in range(len(after))
    ]
    found = over_seeds(seeds, _ratio)
    pooled = _ratio([values for of_seed in seeds for of_task in of_seed.values() for values in of_task])
    return Estimate(pooled, pooled - (found.mean - found.low), pooled + (found.high - found.mean), found.n)


def _ratio(values: Sequence[tuple[float, ...]]) -> float:
    after, before, other_after, other_before = (sum(column) for column in zip(*values, strict=True))
    gain = other_after - other_before
    return (after - before) / gain if gain else math.nan
