"""Training runs compared on their held-out tasks: before with after, and setting with setting.

Owns which runs are one setting (equal but for the seed), and the refusal to compare runs of different tasks. The
formulas are in `agentrl.bench.estimates`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentrl.bench.comparing.obstacles import check_same_tasks
from agentrl.bench.estimates import Estimate, clustered_proportion, paired_over_seeds
from agentrl.bench.verdicts import attempted_outcomes
from agentrl.errors import ConfigError
from agentrl.trajectory import EnvRef

MODES = ("greedy", "sampled")
Outcomes = Mapping[str, Sequence[float]]
"""Task id -> success of its episodes."""
_DEPTH = ("", "*", "*/*")  # a run, a cell of a grid with a run for each seed, a whole grid


@dataclass(frozen=True)
class TrainedRun:
    """One finished run.

    Attributes:
        path: its folder.
        env: that it trained on.
        seed: of the run.
        settings: every key of its configuration but the seed, with dots.
        fingerprints: of the held-out tasks, by id; empty where the run did not keep them.
        before, after: outcomes by mode, of the first and the last evaluation; `before` is None where there is only
            one.
        before_attempted, after_attempted: the same, with discarded episodes as failures.
        discarded: episodes of these evaluations that were discarded, and of those the ones after an action.
    """

    path: Path
    env: EnvRef
    seed: int
    settings: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    before: Mapping[str, Outcomes] | None
    after: Mapping[str, Outcomes]
    before_attempted: Mapping[str, Outcomes] | None = None
    after_attempted: Mapping[str, Outcomes] = field(default_factory=dict)
    discarded: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seeds alone.

    Attributes:
        runs: at least one, in the order of their seeds.
        differs: the keys in which the compared settings differ, with the values of this one.
    """

    runs: Sequence[TrainedRun]
    differs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder of the run; for several the first and how many more."""
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return f"{self.runs[0].path}{more}"

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def after(self, mode: str, *, attempted: bool = False) -> list[Outcomes]:
        """Outcomes of each seed's last evaluation. Args: attempted: with discarded episodes as failures."""
        return [(run.after_attempted if attempted else run.after)[mode] for run in self.runs]

    def before(self, mode: str, *, attempted: bool = False) -> list[Outcomes] | None:
        """Outcomes of each seed's first evaluation; None if a run has none before training."""
        found = [run.before_attempted if attempted else run.before for run in self.runs]
        known = [table[mode] for table in found if table is not None]
        return known if len(known) == len(self.runs) else None


@dataclass(frozen=True)
class Row:
    """One setting in one mode.

    Attributes:
        before, after: success over tasks, with the trials of all seeds pooled; `before` is None where it was not
            measured.
        change: after - before, paired by task and seed.
        against_first: this setting's success after training minus that of the first setting; None for the first.
        change_attempted, against_first_attempted: the same, with discarded episodes as failures; None where no compared
            evaluation has any.
    """

    setting: Setting
    mode: str
    before: Estimate | None
    after: Estimate
    change: Estimate | None
    against_first: Estimate | None
    change_attempted: Estimate | None = None
    against_first_attempted: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        names = ("before", "after", "change", "against_first", "change_attempted", "against_first_attempted")
        shown = {name: getattr(self, name) for name in names}
        return {
            "mode": self.mode,
            "runs": [str(run.path) for run in self.setting.runs],
            "seeds": self.setting.seeds,
            "differs": dict(self.setting.differs),
            **{name: None if value is None else value.to_json() for name, value in shown.items()},
        }


@dataclass(frozen=True)
class RunsComparison:
    """Settings of one environment next to each other.

    Attributes:
        env: that all runs trained on.
        n_tasks: held-out tasks that every run reports.
        rows: by setting and mode.
        notes: what a reader must know.
        warnings: why the numbers cannot be trusted; empty where they can.
    """

    env: EnvRef
    n_tasks: int
    rows: Sequence[Row]
    notes: Sequence[str]
    warnings: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "env": {"id": self.env.id, "version": self.env.version},
            "n_tasks": self.n_tasks,
            "settings": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def run_folders(place: Path) -> list[Path]:
    """The folders of training runs at a place: itself, those of a grid's cell, or of a whole grid."""
    for depth in _DEPTH:
        found = sorted(path for path in (place.glob(depth) if depth else [place]) if _is_run(path))
        if found:
            return found
    return []


def compare_runs(places: Iterable[Path], *, allow_versions: bool = False) -> RunsComparison:
    """Compare training runs task by task.

    Args:
        places: folders of runs, of a grid's cells or of grids. An unfinished run in a grid is left out, with a note.
        allow_versions: accept that the environment has another version, if its tasks are the same.
    Raises: ConfigError if a folder is no run, a run is not finished or has no evaluation, or if runs are of different
        environments or share no task.
    """
    runs, notes = _read_all(places)
    for run in runs[1:]:
        names = f"{runs[0].path}", f"{run.path}"
        marks = runs[0].fingerprints, run.fingerprints
        check_same_tasks((runs[0].env, run.env), marks, names, allow_versions=allow_versions)
    shared = _shared_tasks(runs)
    settings = _settings(runs)
    notes += [
        f"{setting.name} has one seed: its intervals are over tasks alone, and another seed may differ more"
        for setting in settings
        if len(setting.runs) == 1
    ]
    left_out = max(len(run.after[mode]) for run in runs for mode in MODES) - len(shared)
    if left_out > 0:
        notes.append(f"{left_out} tasks that not every run scored are left out")
    notes += [f"{run.path}: {run.discarded[0]} held-out episodes were discarded" for run in runs if run.discarded[0]]
    rows = [_row(setting, settings[0], mode, shared) for mode in MODES for setting in settings]
    if any(run.after_attempted != run.after or run.before_attempted != run.before for run in runs):
        every = _shared_tasks(runs, attempted=True)
        rows = [_with_attempted(row, settings[0], every) for row in rows]
    return RunsComparison(runs[0].env, len(shared), rows, notes, _warnings(runs))


def _warnings(runs: Sequence[TrainedRun]) -> list[str]:
    return [
        f"{run.discarded[1]} held-out episodes of {run.path} were discarded after the model had acted, so the "
        "model may have brought that about: do not trust this comparison"
        for run in runs
        if run.discarded[1]
    ]


# Reading.


def _is_run(path: Path) -> bool:
    return (path / "config.toml").is_file() and (path / "identity.json").is_file()


def _read_all(places: Iterable[Path]) -> tuple[list[TrainedRun], list[str]]:
    folders: list[Path] = []
    notes: list[str] = []
    for place in places:
        found = run_folders(place)
        if not found:
            raise ConfigError(f"{place} is no training run and holds none: give folders of `agentrl train`")
        unfinished = [path for path in found if not (path / "summary.json").is_file()]
        if len(unfinished) == len(found):
            raise ConfigError(
                f"{unfinished[0]} is not finished: continue it with `agentrl train --resume {unfinished[0]}`"
            )
        notes += [f"{path} is not finished and is left out" for path in unfinished]
        folders += [path for path in found if path not in unfinished]
    return [_read(path) for path in dict.fromkeys(folders)], notes


def _read(path: Path) -> TrainedRun:
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        identity = json.loads((path / "identity.json").read_text(encoding="utf-8"))
        settings = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        tables = [stage for stage in summary["stages"].values() if "outcomes" in stage]
        env, fingerprints = _environment_of(settings, identity["environments"])
        seed = settings.pop("seed", 0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no training run of this version ({type(error).__name__}: {error})") from error
    if not tables:
        raise ConfigError(
            f"{path} records no outcomes of held-out tasks: its plan needs a stage of kind evaluate, and the run must "
            "be of this version of AgentRL"
        )
    first, last = tables[0] if len(tables) > 1 else None, tables[-1]
    cells = [table.get(mode) or {} for table in (first, last) if table is not None for mode in MODES]
    lost = sum(sum((cell.get("discarded") or {}).values()) for cell in cells)
    acted = sum(cell.get("n_discarded_after_actions", 0) for cell in cells)
    return TrainedRun(
        path,
        env,
        seed,
        _flat(settings),
        fingerprints,
        None if first is None else first["outcomes"],
        last["outcomes"],
        None if first is None else attempted_outcomes(first),
        attempted_outcomes(last),
        (lost, acted),
    )


def _environment_of(settings: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> tuple[EnvRef, dict[str, str]]:
    """What a run is evaluated on, and its tasks' fingerprints; of several environments, all of them as one."""
    envs = settings.get("envs", {})
    if not envs:
        env, splits = EnvRef(**found[0]["env"]), found[0]["splits"]
        return env, splits[settings["env"].get("eval_split", "eval")]["tasks"]
    refs = {one["name"]: EnvRef(**one["env"]) for one in found if "name" in one}
    marks = {
        f"{one['name']}/{task}": mark
        for one in found
        if "name" in one
        for task, mark in one["splits"][envs[one["name"]].get("eval_split", "eval")]["tasks"].items()
    }
    names = sorted(refs)
    versions = " ".join(refs[name].version for name in names)
    return EnvRef(", ".join(f"{name} = {refs[name]}" for name in names), version=versions), marks


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


# Comparing.


def _settings(runs: Sequence[TrainedRun]) -> list[Setting]:
    """Runs by their settings, in the order in which these come first. Raises: ConfigError for a seed given twice."""
    groups: list[list[TrainedRun]] = []
    for run in runs:
        own = next((group for group in groups if group[0].settings == run.settings), None)
        if own is None:
            groups.append([run])
            continue
        twin = next((other for other in own if other.seed == run.seed), None)
        if twin is not None:
            raise ConfigError(f"{twin.path} and {run.path} are the same settings and seed: give one of them")
        own.append(run)
    tables = [group[0].settings for group in groups]
    keys = [key for key in {key: 0 for table in tables for key in table} if _differ(key, tables)]
    return [
        Setting(sorted(group, key=lambda run: run.seed), {key: group[0].settings.get(key) for key in keys})
        for group in groups
    ]


def _differ(key: str, tables: Sequence[Mapping[str, Any]]) -> bool:
    return any(table.get(key) != tables[0].get(key) for table in tables)


def _shared_tasks(runs: Sequence[TrainedRun], *, attempted: bool = False) -> set[str]:
    """Tasks that every evaluation of every run scored, or attempted. Raises: ConfigError if there are none."""
    sides = [(r, (r.before_attempted, r.after_attempted) if attempted else (r.before, r.after)) for r in runs]
    tables = [(run, table) for run, ends in sides for side in ends if side for table in side.values()]
    shared = {task for _, ends in sides[:1] for task, values in (ends[1] or {})[MODES[0]].items() if values}
    for run, table in tables:
        remaining = shared & {task for task, values in table.items() if values}
        if not remaining:
            raise ConfigError(
                f"cannot compare: {runs[0].path} and {run.path} have no held-out task in common. Train them with the "
                "same env.eval_split and the same num_tasks of their evaluations"
            )
        shared = remaining
    return shared


def _row(setting: Setting, first: Setting, mode: str, shared: set[str]) -> Row:
    after = _only(setting.after(mode), shared)
    before = setting.before(mode)
    before = None if before is None else _only(before, shared)
    same_seeds = setting.seeds == first.seeds
    return Row(
        setting=setting,
        mode=mode,
        before=None if before is None else _success(before),
        after=_success(after),
        change=None if before is None else paired_over_seeds(after, before, same_seeds=True),
        against_first=None
        if setting is first
        else paired_over_seeds(after, _only(first.after(mode), shared), same_seeds=same_seeds),
    )


def _with_attempted(row: Row, first: Setting, tasks: set[str]) -> Row:
    """The row with its differences over all attempted episodes. Args: tasks: that every evaluation attempted."""
    setting, mode = row.setting, row.mode
    after, before = _only(setting.after(mode, attempted=True), tasks), setting.before(mode, attempted=True)
    change = None if before is None else paired_over_seeds(after, _only(before, tasks), same_seeds=True)
    if setting is first:
        return replace(row, change_attempted=change)
    base, same = _only(first.after(mode, attempted=True), tasks), setting.seeds == first.seeds
    against = paired_over_seeds(after, base, same_seeds=same)
    return replace(row, change_attempted=change, against_first_attempted=against)


def _only(outcomes: Sequence[Outcomes], tasks: set[str]) -> list[Outcomes]:
    return [{task: values for task, values in of_seed.items() if task in tasks} for of_seed in outcomes]


def _success(outcomes: Sequence[Outcomes]) -> Estimate:
    return clustered_proportion([[v for of_seed in outcomes for v in of_seed[task]] for task in outcomes[0]])
