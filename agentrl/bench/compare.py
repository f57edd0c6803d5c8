"""Two benchmarks compared task by task. Owns the pairing, and the refusal to compare two different things.

The formulas are in `agentrl.bench.estimates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentrl.bench.comparing.obstacles import obstacles
from agentrl.bench.estimates import Estimate, paired_difference
from agentrl.bench.measures.base import PerEpisode
from agentrl.bench.measures.success import Reward, Success, SuccessOfAttempted, mean_of_rewards
from agentrl.bench.records import BenchRecord, TrialResult
from agentrl.bench.result import BenchResult
from agentrl.bench.statistics.families import Clusters, Families, families_of
from agentrl.bench.statistics.significance import (
    holm,
    mcnemar_test,
    noise_floor,
    paired_permutation_test,
    tasks_to_resolve,
)
from agentrl.errors import ConfigError, did_you_mean

SUCCESS = Success()
ValuesByTask = Mapping[str, Sequence[float]]
RECORDED = tuple(measure.name for measure in (SUCCESS, SuccessOfAttempted(), Reward()))
"""Measures that a record holds; others are computed from trajectories."""
RESOLVED = (0.01, 0.02, 0.05, 0.1)
"""Differences for which a comparison says how many tasks would find them."""


def compare(
    first: BenchResult | BenchRecord,
    second: BenchResult | BenchRecord,
    measure: PerEpisode = SUCCESS,
    *,
    allow_versions: bool = False,
    force: bool = False,
) -> Estimate:
    """The difference `first - second` on the tasks that both played, paired by task.

    Different sampling is no obstacle; `comparison` shows it.

    Args:
        first, second: results, or records that `read_record` found in a folder.
        measure: what is compared: the success rate, or another mean over episodes. A record holds `RECORDED` alone.
        allow_versions: accept that the environment has another version, if its tasks are the same.
        force: compare different environments, versions and tasks too, by the ids of tasks; `comparison` names the
            differences in its result.
    Raises: ConfigError if the two are of different environments, versions or tasks.
    """
    _check(_record(first), _record(second), allow_versions=allow_versions, force=force)
    families = _families(_record(first), _record(second))
    return paired_difference(_values(first, measure), _values(second, measure), families=families)


def _families(first: BenchRecord, second: BenchRecord) -> dict[str, str]:
    return {**second.families, **first.families}


def _record(one: BenchResult | BenchRecord) -> BenchRecord:
    return one.record if isinstance(one, BenchResult) else one


def _check(first: BenchRecord, second: BenchRecord, *, allow_versions: bool, force: bool = False) -> tuple[str, ...]:
    """What keeps two benchmarks from being compared; empty where nothing does.

    Raises: ConfigError for the first of these without `force`, and where no task was played by both.
    """
    found = list(
        obstacles((first.env, second.env), (first.fingerprints, second.fingerprints), allow_versions=allow_versions)
    )
    if found and not force:
        raise ConfigError(f"cannot compare: {found[0]}. {found[0].advice}")
    if first.tasks.keys().isdisjoint(second.tasks):
        raise ConfigError(
            f"cannot compare: no task was played by both (splits {first.split!r} and {second.split!r}). Give both the "
            "same split, seed and number of tasks"
        )
    return tuple(map(str, found))


def _values(one: BenchResult | BenchRecord, measure: PerEpisode) -> ValuesByTask:
    if isinstance(one, BenchResult):
        return measure.values_by_task(one.trajectories)
    return recorded_values(one, measure.name)


def recorded_values(record: BenchRecord, measure: str) -> dict[str, tuple[float, ...]]:
    """Task id -> the numbers of its episodes. Raises: ConfigError for a measure that a record does not hold.

    Tasks with equal numbers share them.
    """
    if measure not in RECORDED:
        raise ConfigError(
            f"a record does not hold the measure {measure!r}.{did_you_mean(measure, RECORDED)} In Python, compare() of "
            "two results takes every measure that is a mean over episodes"
        )
    found = ((task, _numbers(result.trials, measure)) for task, result in record.tasks.items())
    equal: dict[tuple[float, ...], tuple[float, ...]] = {}
    return {task: equal.setdefault(values, values) for task, values in found}


def _numbers(trials: Any, measure: str) -> tuple[float, ...]:
    counting: list[TrialResult] = [t for t in trials if t.is_scored or measure == SuccessOfAttempted.name]
    if measure == Reward.name:
        return tuple(t.reward for t in counting if t.reward is not None)
    bound = measure == SuccessOfAttempted.name
    return tuple(float(t.success and not (bound and t.asked_anew)) for t in counting)


@dataclass(frozen=True)
class Tests:
    """Whether a difference is more than chance, and what it would take to tell.

    Attributes:
        p_value: of the paired permutation test, with results as large as the observed one counted half (mid-p).
        exact: the same test, counting them whole: too cautious where tasks are few.
        adjusted: `p_value`, corrected by Holm's method where several are compared with the first.
        mcnemar: exact p-value, for outcomes with one trial of each task, no two of one family; None elsewhere.
        noise_floor: within what distance two runs of the first, and of the second, lie in 95 of 100 cases; nan where no
            task has two trials.
        tasks_needed: difference -> tasks that find it with power 0.8, at as many trials; None where that is not known.
    """

    p_value: float
    exact: float
    adjusted: float
    mcnemar: float | None
    noise_floor: tuple[float, float]
    tasks_needed: Mapping[float, int | None]

    @classmethod
    def of(cls, first: ValuesByTask, second: ValuesByTask, by_task: Mapping[str, str] | None = None) -> Tests:
        """Args: first, second: values by task. by_task: families of tasks, by id."""
        shared = [task for task in first if first[task] and second.get(task)]
        one, other = [first[task] for task in shared], [second[task] for task in shared]
        families = families_of(shared, by_task or {})
        p_value = paired_permutation_test(one, other, families=families)
        return cls(
            p_value.mid,
            p_value.exact,
            p_value.mid,
            mcnemar_test(one, other) if Clusters.of(one, families).count == len(one) else None,
            (noise_floor(one), noise_floor(other)),
            {difference: tasks_to_resolve(one, other, difference, families=families) for difference in RESOLVED},
        )

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "p_value": self.p_value,
            "p_value_exact": self.exact,
            "p_value_adjusted": self.adjusted,
            "p_value_mcnemar": self.mcnemar,
            "noise_floor": [floor if math.isfinite(floor) else None for floor in self.noise_floor],
            "tasks_needed": {str(difference): tasks for difference, tasks in self.tasks_needed.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """Two benchmarks of one environment, side by side.

    Attributes:
        measure: what is compared.
        values: it for the first and the second, each over all its tasks.
        difference: first - second, over the tasks that both played.
        of_attempted: the difference of the success rates that count discarded episodes, and those with a second choice,
            as failures.
        tests: whether the difference is more than chance.
        notes: what differs between the two.
        warnings: why the difference cannot be trusted; empty where it can.
        forced: why the two are not of the same thing, where they were compared nevertheless.
        values_by_task: what is compared, of the first and the second.
    """

    first: BenchRecord
    second: BenchRecord
    measure: str
    values: tuple[Estimate, Estimate]
    difference: Estimate
    of_attempted: Estimate
    tests: Tests
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    forced: tuple[str, ...] = ()
    values_by_task: tuple[ValuesByTask, ValuesByTask] = field(default=({}, {}), repr=False)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        sides = [
            {
                "policy": record.policy,
                "env": {"id": record.env.id, "version": record.env.version},
                "value": value.to_json(),
                "n_attempted": record.num_attempted,
                "n_faults": record.num_discarded,
                "n_discarded_after_actions": record.num_after_actions,
                "sampling": record.sampling,
            }
            for record, value in zip((self.first, self.second), self.values, strict=True)
        ]
        return {
            "measure": self.measure,
            "first": sides[0],
            "second": sides[1],
            "difference": self.difference.to_json(),
            "difference_of_attempted": self.of_attempted.to_json(),
            "tests": self.tests.to_json(),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "forced": list(self.forced),
        }


def comparison(
    first: BenchRecord,
    second: BenchRecord,
    measure: str = SUCCESS.name,
    *,
    allow_versions: bool = False,
    force: bool = False,
) -> Comparison:
    """`compare` of two records, with both sides and everything that differs between them.

    Args: measure: one of `RECORDED`.
    Raises: ConfigError as `compare`.
    """
    forced = _check(first, second, allow_versions=allow_versions, force=force)
    values = recorded_values(first, measure), recorded_values(second, measure)
    every = recorded_values(first, SuccessOfAttempted.name), recorded_values(second, SuccessOfAttempted.name)
    interval = mean_of_rewards if measure == Reward.name else Success().estimate
    families = _families(first, second)
    return Comparison(
        first=first,
        second=second,
        measure=measure,
        values=(_interval(interval, values[0], families), _interval(interval, values[1], families)),
        difference=paired_difference(*values, families=families),
        of_attempted=paired_difference(*every, families=families),
        tests=Tests.of(*values, families),
        notes=tuple(_notes(first, second)),
        warnings=tuple(_warnings(first, second)),
        forced=forced,
        values_by_task=values,
    )


def _interval(
    of: Callable[[Sequence[Sequence[float]], Families], Estimate], values: ValuesByTask, families: Mapping[str, str]
) -> Estimate:
    return of(list(values.values()), families_of(list(values), families))


def comparisons(
    records: Sequence[BenchRecord],
    measure: str = SUCCESS.name,
    *,
    allow_versions: bool = False,
    force: bool = False,
) -> list[Comparison]:
    """`comparison` of the first record with each of the others; p-values are adjusted for their number.

    Raises: ConfigError as `compare`, and for fewer than two records.
    """
    if len(records) < 2:
        raise ConfigError(f"a comparison needs two benchmarks at least, and {len(records)} was given")
    first, *others = records
    found = [comparison(first, other, measure, allow_versions=allow_versions, force=force) for other in others]
    adjusted = holm([one.tests.p_value for one in found])
    return [replace(one, tests=replace(one.tests, adjusted=p)) for one, p in zip(found, adjusted, strict=True)]


def _notes(first: BenchRecord, second: BenchRecord) -> list[str]:
    """What differs, and does not forbid the comparison."""
    pairs: dict[str, tuple[Any, Any]] = {
        **{f"version of {name}": _pair(first.versions, second.versions, name) for name in _names(first, second)},
        "seed": (first.seed, second.seed),
        "scored by": (first.scorer, second.scorer),
    }
    one, other = first.sampling or {}, second.sampling or {}
    if first.sampling is not None and second.sampling is not None:
        pairs |= {f"sampling, {name}": _pair(one, other, name) for name in {**one, **other}}
    notes = [f"{name}: {a!r} in the first, {b!r} in the second" for name, (a, b) in pairs.items() if a != b]
    alone = [len(a.tasks.keys() - b.tasks.keys()) for a, b in ((first, second), (second, first))]
    if any(alone):
        notes.append(f"tasks that only one played are left out: {alone[0]} of the first, {alone[1]} of the second")
    for which, record in (("first", first), ("second", second)):
        if record.status != "finished":
            notes.append(f"the {which} is {record.status}: it holds {record.num_attempted} episodes")
        if record.num_discarded:
            notes.append(f"the {which} has {record.num_discarded} of {record.num_attempted} episodes discarded")
        if record.num_asked_anew:
            notes.append(
                f"in {record.num_asked_anew} of {record.num_attempted} episodes of the {which} the model was asked "
                "anew after a fault, as the environment answered otherwise; of the attempted episodes they count as "
                "failures"
            )
    return notes


def _names(first: BenchRecord, second: BenchRecord) -> list[str]:
    return [name for name in first.versions if name in second.versions]


def _pair(first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    return first.get(name), second.get(name)


def _warnings(first: BenchRecord, second: BenchRecord) -> list[str]:
    return [
        f"{record.num_after_actions} of {record.num_attempted} episodes of the {which} were discarded after the model "
        "had acted, so the model may have brought that about: do not trust this comparison"
        for which, record in (("first", first), ("second", second))
        if record.num_after_actions
    ]
