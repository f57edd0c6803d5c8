"""The arms of one training file on their held-out tasks: each arm's measures, and its difference from the main one.

Owns which episodes and costs are compared. Formulas are in `estimates`, `jackknife` and the measures themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.bench.environments import named_tasks
from agentrl.bench.estimates import Estimate, clustered_proportion, paired_over_seeds
from agentrl.bench.generalisation import EnvironmentRun, Generalisation, generalisation
from agentrl.bench.measures.base import SHARE, Measure, by_task, scored
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.measures.confidence import CalibrationError
from agentrl.bench.measures.endings import Faults
from agentrl.bench.measures.success import Success, SuccessOfAttempted
from agentrl.bench.statistics.jackknife import over_seeds
from agentrl.bench.training_runs import MODES
from agentrl.errors import ConfigError
from agentrl.learning.confidence.calibration import Bin
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory, follows_actions

Episodes = Mapping[str, Sequence[Trajectory]]
"""Task id -> its episodes."""
Value = Callable[[Sequence[Trajectory]], float]
Measures = Mapping[str, tuple[Measure, Value]]
"""Measures by name, each with its number alone."""


@dataclass(frozen=True)
class ArmRuns:
    """The finished runs of one arm.

    Attributes:
        name, about: as in the file.
        runs: folder of each seed's run; seeds whose run failed are missing.
    """

    name: str
    about: str
    runs: Mapping[int, Path]


@dataclass(frozen=True)
class ArmRow:
    """One arm in one mode.

    Attributes:
        arm, about, seeds: of the runs.
        mode: `greedy` or `sampled`.
        values: of each measure, over tasks and seeds.
        differences: the arm minus the main arm, on the same tasks and seeds; empty for the main arm.
        cpu_s, sampled_tokens: of one run on average, the stages that it took over included.
        reliability: bars of the reliability diagram over the answers of all seeds; empty where no measure is an `ece`.
    """

    arm: str
    about: str
    seeds: Sequence[int]
    mode: str
    values: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    cpu_s: float
    sampled_tokens: float
    reliability: Sequence[Bin] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        shown = {name: {k: e.to_json() for k, e in getattr(self, name).items()} for name in ("values", "differences")}
        plain = ("arm", "about", "mode", "cpu_s", "sampled_tokens")
        bars = {"reliability": [asdict(bar) for bar in self.reliability if bar.count]} if self.reliability else {}
        return {**{name: getattr(self, name) for name in plain}, "seeds": list(self.seeds), **shown, **bars}


@dataclass(frozen=True)
class ArmsTable:
    """All arms next to each other.

    Attributes:
        stage: the evaluation that is compared: each run's last one.
        units: of each measure, by name, in the order of the columns.
        rows: by mode and arm, the main arm first.
        notes: what a reader must know.
        generalisation: each arm on each environment; None for one environment.
    """

    stage: str
    units: Mapping[str, str]
    rows: Sequence[ArmRow]
    notes: Sequence[str]
    generalisation: Generalisation | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        rows = [row.to_json() for row in self.rows]
        found = {"stage": self.stage, "units": dict(self.units), "rows": rows, "notes": list(self.notes)}
        return found if self.generalisation is None else {**found, "generalisation": self.generalisation.to_json()}


@dataclass(frozen=True)
class _Run:
    """What is read of one run: its last evaluation and cost, and its environments where it has several."""

    stage: str
    measures: Sequence[str]
    cpu_s: float
    sampled_tokens: float
    num_played: int
    num_discarded: int
    num_after_actions: int
    episodes: Mapping[str, Episodes] = field(repr=False)
    attempted: Mapping[str, Episodes] = field(repr=False)
    environments: EnvironmentRun | None = field(repr=False)


def compare_arms(arms: Sequence[ArmRuns]) -> ArmsTable:
    """Read the runs of arms and compare them with the first arm.

    Raises: ConfigError if no run of the first arm is finished, or one has no evaluation.
    """
    if not arms or not arms[0].runs:
        raise ConfigError("no run of the main arm is finished, so there is nothing to compare with")
    read = {arm.name: {seed: _read(path) for seed, path in arm.runs.items()} for arm in arms}
    main = next(iter(read[arms[0].name].values()))
    lost = any(run.num_discarded for of in read.values() for run in of.values())
    of_attempted = [SuccessOfAttempted.name] if lost else []
    named = measures_of(list(dict.fromkeys(("success", *of_attempted, *main.measures))))
    measures = {measure.name: (measure, _value(measure)) for measure in named}
    rows = [_row(arm, read, arms[0].name, measures, mode) for mode in MODES for arm in arms if arm.runs]
    notes = [f"{arm.name}: no run is finished" for arm in arms if not arm.runs]
    short = [arm.name for arm in arms if len(arm.runs) == 1]
    if short:
        notes.append(f"one seed ({', '.join(short)}): the intervals are over tasks alone, another seed may differ more")
    others = [f"{name}: {run.stage}" for name, of in read.items() for run in of.values() if run.stage != main.stage]
    notes += [f"the last evaluation of {other}, not {main.stage}" for other in dict.fromkeys(others)]
    notes += [note for name, of in read.items() if (note := _discards(name, list(of.values())))]
    units = {measure.name: measure.unit for measure in named}
    several = {n: {seed: run.environments for seed, run in of.items() if run.environments} for n, of in read.items()}
    return ArmsTable(main.stage, units, rows, notes, generalisation(several, MODES))


def _discards(name: str, runs: Sequence[_Run]) -> str:
    """A note on the episodes of an arm that no number contains."""
    discarded, played = sum(run.num_discarded for run in runs), sum(run.num_played for run in runs)
    if not discarded:
        return ""
    acted = sum(run.num_after_actions for run in runs)
    trust = f", {acted} of them after the model had acted: do not trust a comparison of its success" if acted else ""
    return f"{name}: {discarded} of {played} episodes were discarded and count as failures of those attempted{trust}"


def _read(path: Path) -> _Run:
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        tables = {name: stage for name, stage in summary["stages"].items() if "outcomes" in stage}
        cost = summary["cost"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no finished run of this version ({type(error).__name__}: {error})") from error
    if not tables:
        raise ConfigError(f"{path} evaluates nothing: give its plan a stage of kind evaluate at the end")
    stage = list(tables)[-1]
    recorded = TrajectoryStore(path / "trajectories.jsonl").read(stage=stage)
    played = [episode for episode in recorded if not episode.labels.superseded]
    played = named_tasks(played, tables[stage].get("environments", {}))
    attempted = {mode: _by_task([t for t in played if t.labels.mode == mode]) for mode in MODES}
    episodes = {mode: _by_task([t for t in scored(played) if t.labels.mode == mode]) for mode in MODES}
    acted = sum(map(follows_actions, played))
    tokens = cost["tokens"].get("sampled", 0)
    measures, discarded = tables[stage].get("measures", ()), len(played) - len(scored(played))
    environments = EnvironmentRun.of(summary)
    return _Run(
        stage, measures, cost["cpu_s"], tokens, len(played), discarded, acted, episodes, attempted, environments
    )


def _by_task(episodes: Sequence[Trajectory]) -> Episodes:
    found: dict[str, list[Trajectory]] = {}
    for episode in episodes:
        found.setdefault(episode.task.id, []).append(episode)
    return found


def _row(arm: ArmRuns, read: Mapping[str, Mapping[int, _Run]], main: str, measures: Measures, mode: str) -> ArmRow:
    own, first = read[arm.name], read[main]
    both = [seed for seed in own if seed in first]
    here = {seed: run.episodes[mode] for seed, run in own.items()}
    values = {name: _estimate(*m, [_of(m[0], run, mode) for run in own.values()]) for name, m in measures.items()}
    differences = {}
    if arm.name != main and both:
        pairs = [own[seed] for seed in both], [first[seed] for seed in both]
        differences = {
            name: _difference(*m, *([_of(m[0], run, mode) for run in side] for side in pairs))
            for name, m in measures.items()
        }
    runs = list(own.values())
    return ArmRow(
        arm.name,
        arm.about,
        list(own),
        mode,
        values,
        differences,
        cpu_s=sum(run.cpu_s for run in runs) / len(runs),
        sampled_tokens=sum(run.sampled_tokens for run in runs) / len(runs),
        reliability=_reliability([measure for measure, _ in measures.values()], list(here.values())),
    )


def _of(measure: Measure, run: _Run, mode: str) -> Episodes:
    """The episodes that a measure is of: the scored ones, or all where it counts discarded ones."""
    return (run.attempted if isinstance(measure, (SuccessOfAttempted, Faults)) else run.episodes)[mode]


def _reliability(measures: Sequence[Measure], seeds: Sequence[Episodes]) -> Sequence[Bin]:
    """The bars of the first calibration error among the measures."""
    found = next((measure for measure in measures if type(measure) is CalibrationError), None)
    if found is None:
        return ()
    return found.bars([episode for of_seed in seeds for episodes in of_seed.values() for episode in episodes])


def _estimate(measure: Measure, value: Value, seeds: Sequence[Episodes]) -> Estimate:
    if isinstance(measure, Success):
        outcomes = [_outcomes(measure, of_seed) for of_seed in seeds]
        shared = [task for task in outcomes[0] if all(task in of_seed for of_seed in outcomes)]
        return clustered_proportion([[x for of_seed in outcomes for x in of_seed[task]] for task in shared])
    return _within(measure, over_seeds(seeds, value), 0.0)


def _difference(measure: Measure, value: Value, one: Sequence[Episodes], other: Sequence[Episodes]) -> Estimate:
    if isinstance(measure, Success):
        sides = [[_outcomes(measure, of_seed) for of_seed in side] for side in (one, other)]
        return paired_over_seeds(sides[0], sides[1], same_seeds=True)
    return _within(measure, over_seeds(one, value, minus=other), -1.0)


def _within(measure: Measure, found: Estimate, least: float) -> Estimate:
    """The estimate of a share, its interval cut at what a share can be: `least` to 1. An unknown interval stays so."""
    if measure.unit != SHARE or not math.isfinite(found.high - found.low):
        return found
    return replace(found, low=max(found.low, least), high=min(found.high, 1.0))


def _value(measure: Measure) -> Value:
    """The measure as a number; computed once for each list of episodes, which must outlive the function.

    The main arm is one side of every difference, so without this its statistics would be computed for each arm.
    """
    known: dict[bytes, float] = {}

    def value(episodes: Sequence[Trajectory]) -> float:
        key = blake2b(np.fromiter(map(id, episodes), np.int64).tobytes(), digest_size=16).digest()
        if key not in known:
            found = measure.value(episodes)
            known[key] = found if math.isfinite(found) else math.nan
        return known[key]

    return value


def _outcomes(measure: Success, episodes: Episodes) -> dict[str, list[float]]:
    return by_task([episode for of_task in episodes.values() for episode in of_task], measure.of)
