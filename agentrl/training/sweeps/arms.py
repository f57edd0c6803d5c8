"""The arms of a configuration file: the run that it describes, and one more for each of its `[controls]`.

Owns how a control is laid over the file, and what an arm takes over from the main one. The processes are `grid`'s.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agentrl.config import dump_config, load_config
from agentrl.config.files import read_table
from agentrl.errors import AgentRLError, ConfigError, StoreError, did_you_mean
from agentrl.training import checkpoint
from agentrl.training.files.log_marks import LogMarks
from agentrl.training.folder import RunFolder
from agentrl.training.identity import check_same
from agentrl.training.plan import CONTROLS, TrainConfig
from agentrl.training.sweeps.grid import GridResult, GridRun, is_done, run_grid
from agentrl.training.train import checked_identity

MAIN = "main"
_ABOUT = "about"


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: of the control, or `main`.
        about: what it is for, from the file; "" if that says nothing.
        config: of its runs.
        shared: the last of the stages at its beginning that are the main arm's as well; None if there is none.
    """

    name: str
    about: str
    config: TrainConfig
    shared: str | None = None


def controls_of(path: str | Path) -> dict[str, Mapping[str, Any]]:
    """The tables of a file's `[controls]`, by name. Raises: ConfigError if one has no form of a control."""
    found = read_table(path).get(CONTROLS, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: [{CONTROLS}] must hold a table for each control")
    for name, table in found.items():
        if not isinstance(table, Mapping) or not isinstance(table.get(_ABOUT, ""), str):
            raise ConfigError(f"{path}: [{CONTROLS}.{name}] must be a table, and its `{_ABOUT}` a text")
        if name == MAIN or not name or name != Path(name).name:
            raise ConfigError(f"{path}: [{CONTROLS}.{name}]: a control cannot have this name: choose another one")
    return dict(found)


def read_arms(path: str | Path, overrides: Sequence[str] = (), *, only: Sequence[str] | None = None) -> list[Arm]:
    """The arms of a file, every one read and checked.

    Args:
        path: a TOML file.
        overrides: as of `load_config`; they hold for every arm.
        only: names of the controls; None takes all.
    Returns: the main arm, then the controls in the order of the file.
    Raises: ConfigError that names the control.
    """
    controls = controls_of(path)
    for name in only or ():
        if name not in controls:
            raise ConfigError(f"{path} has no control {name!r}.{did_you_mean(name, controls)}")
    main = load_config(TrainConfig, path, overrides)
    arms = [_arm(path, overrides, name, controls[name], main) for name in controls if only is None or name in only]
    kept = tuple(dict.fromkeys(arm.shared for arm in arms if arm.shared is not None))
    main = replace(main, run=replace(main.run, keep_stages=tuple(dict.fromkeys((*main.run.keep_stages, *kept)))))
    return [Arm(MAIN, "", main), *arms]


def _arm(path: str | Path, overrides: Sequence[str], name: str, control: Mapping[str, Any], main: TrainConfig) -> Arm:
    try:
        config = load_config(TrainConfig, path, overrides, edit=partial(overlaid, control=control))
    except ConfigError as error:
        raise ConfigError(f"[{CONTROLS}.{name}]: {error}") from error
    return Arm(name, control.get(_ABOUT, ""), config, shared_stage(main, config))


def overlaid(table: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """A file's table with a control laid over it.

    A table merges, key by key; a value replaces; a table that has `kind` or `algorithm` replaces what there was.
    """
    base = {key: value for key, value in table.items() if key != CONTROLS}
    return _over(base, {key: value for key, value in control.items() if key != _ABOUT})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(below))
    for key, value in above.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and not {"kind", "algorithm"} & value.keys():
            merged[key] = _over(before, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def shared_stage(main: TrainConfig, arm: TrainConfig) -> str | None:
    """The last of the stages at the beginning of an arm that are the main arm's as well; None if there is none.

    Everything that the stages read has to be the same: environment, model, sampling and the settings of the run.
    """
    same = replace(main, stages={}, run=replace(main.run, keep_stages=())) == replace(
        arm, stages={}, run=replace(arm.run, keep_stages=())
    )
    shared = None
    for one, other in zip(main.planned().items(), arm.planned().items(), strict=False):
        if not same or one != other:
            break
        shared = one[0]
    return shared


def take_over(config: TrainConfig, out: Path, parent: Path, stage: str) -> bool:
    """Make the folder of a run that begins after a stage of a finished run: its checkpoint, logs and summaries.

    The run goes on bit for bit as if it had done these stages itself, with the parent's tokenizer.

    Args:
        config: of the new run; its stages up to `stage` are the parent's.
        out: its folder.
        parent: a run with the same seed that kept the end of `stage` (`run.keep_stages`).
    Returns: False if the parent kept no such checkpoint; then nothing is made.
    Raises: CheckpointError, ConfigError, StoreError.
    """
    source = RunFolder.open(parent)
    kept = source.stage_end(stage)
    if not kept.is_dir():
        return False
    config = config.like(load_config(TrainConfig, source.config_path))
    identity = checked_identity(config)
    check_same(source.identity(), identity, str(parent))
    marks = checkpoint.read(kept).extra["logs"]
    LogMarks(source.path).check(marks)
    folder = RunFolder.create(out, dump_config(config), identity=identity)
    try:
        for name in checkpoint.read(kept).extra["state"]["summaries"]:
            if source.reward_model(name).is_dir():
                shutil.copytree(source.reward_model(name), folder.reward_model(name))
        for name, mark in marks.items():
            _copy_beginning(source.path / name, folder.path / name, mark["bytes"])
        checkpoint.adopt(kept, folder.checkpoints_path, config_fingerprint=config.fingerprint(), run=identity["run"])
    except OSError as error:
        folder.abandon()
        raise StoreError(f"cannot write to {out}: {error}; free space, and give the same command again") from error
    except BaseException:
        folder.abandon()
        raise
    finally:
        folder.close()
    return True


def plan_arms(arms: Sequence[Arm], out: str | Path, seeds: Sequence[int]) -> list[GridRun]:
    """The runs of arms: each with every seed, in `out/ARM/seed-N`; the main arm's come first.

    Raises: ConfigError if a seed is given twice.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ConfigError(f"--seeds must name each seed once, got {', '.join(map(str, seeds)) or 'none'}")
    folder = Path(out)
    return [
        GridRun(
            arm.name,
            replace(arm.config, seed=seed),
            folder / arm.name / f"seed-{seed}",
            None if arm.shared is None else (folder / MAIN / f"seed-{seed}", arm.shared),
        )
        for arm in arms
        for seed in seeds
    ]


def run_arms(
    runs: Sequence[GridRun], *, jobs: int | None = None, on_result: Callable[[GridResult], None] = lambda result: None
) -> list[GridResult]:
    """`run_grid` of the main arm's runs, then of the others, which take over the stages that they share with it.

    A run that cannot begin, or fails, does not stop the others.

    Raises: ConfigError before anything begins if a folder holds a run of another configuration.
    """
    for run in runs:
        is_done(run)
    done = run_grid([run for run in runs if run.after is None], jobs=jobs, on_result=on_result)
    rest = []
    for run in runs:
        if run.after is None:
            continue
        try:
            _begin_after(run, *run.after)
        except AgentRLError as error:
            done.append(GridResult(run, None, f"{type(error).__name__}: {error}"))
            on_result(done[-1])
        else:
            rest.append(run)
    done += run_grid(rest, jobs=jobs, on_result=on_result)
    return sorted(done, key=lambda result: runs.index(result.run))


def _begin_after(run: GridRun, parent: Path, stage: str) -> None:
    """Make the run's folder from its parent's, if it has none yet and the parent is finished."""
    if not (run.folder / "config.toml").exists() and (parent / "summary.json").exists():
        take_over(run.config, run.folder, parent, stage)


def _copy_beginning(source: Path, target: Path, size: int) -> None:
    target.parent.mkdir(exist_ok=True)
    with source.open("rb") as read, target.open("wb") as write:
        while size > 0 and (chunk := read.read(min(size, 1 << 20))):
            write.write(chunk)
            size -= len(chunk)
