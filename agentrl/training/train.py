"""`train` and `resume`: make a run from a plan and a folder. Owns what is removed if the run cannot begin."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agentrl.config import check_config, dump_config, load_config
from agentrl.env import registry
from agentrl.errors import CheckpointError, EnvFault, LearnerLost, StoreError
from agentrl.training import model_setup
from agentrl.training.folder import RunFolder
from agentrl.training.identity import check_same, identity_of
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import OnProgress
from agentrl.training.run import Run
from agentrl.training.status.heartbeat import Heartbeat


def train(config: TrainConfig, out_dir: str | Path, *, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Train an agent and write a run folder.

    Args:
        config: what to train, on what, for how long.
        out_dir: the run's folder; it must not exist, or be empty.
        on_progress: called after each step, and after each episode of an evaluation.
    Returns: the summary, as in summary.json.
    Raises: ConfigError, ModelError, RolloutError: the run cannot begin, and leaves no folder; StoreError,
        CheckpointError: the disk is full or fails, and the run can be resumed, as after LearnerLost: a process that
        learns was ended; EnvFault: code of the run's environment
        or parts called `sys.exit`.
    """
    with _exits_are_errors():
        identity = checked_identity(config)
        config = replace(config, model=model_setup.settled(config.model))
        folder = RunFolder.create(out_dir, dump_config(config), identity=identity, tensorboard=config.run.tensorboard)
        try:
            return _run(folder, config, on_progress)
        except (StoreError, CheckpointError, LearnerLost):
            raise
        except Exception:
            folder.abandon()
            raise
        finally:
            folder.close()


def resume(out_dir: str | Path, *, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Continue an interrupted run from its newest intact checkpoint.

    Its steps are bit for bit those of a run that was not interrupted.

    Args:
        out_dir: the run's folder.
        on_progress: as in `train`.
    Returns: the summary, as in summary.json.
    Raises: CheckpointError if there is no run, one of another format, or no intact checkpoint among several;
        ConfigError if config.toml was edited, if the environment, its tasks or the packages are not those that the run
        was begun with, or if another process writes into the folder.
    """
    with _exits_are_errors():
        folder, config = open_run(out_dir)
        folder.lock()
        try:
            check_same(folder.identity(), _identity(config), str(folder.path))
            return _run(folder, config, on_progress)
        finally:
            folder.close()


def checked_identity(config: TrainConfig) -> dict[str, Any]:
    """The identity of a run that can work. Raises: ConfigError, ModelError, EnvNotFound."""
    if not isinstance(config, TrainConfig):
        raise TypeError(
            "config must be a TrainConfig: TrainConfig.of(table), or load_config(TrainConfig, path) of agentrl.config; "
            f"got {config!r}"
        )
    check_config(config)
    probe = registry.make(config.env.ref)
    try:
        config.check(probe)
        return identity_of(config, probe, config.other_environments())
    finally:
        probe.close()


def _identity(config: TrainConfig) -> dict[str, Any]:
    probe = registry.make(config.env.ref)
    try:
        return identity_of(config, probe, config.other_environments())
    finally:
        probe.close()


@contextmanager
def _exits_are_errors() -> Iterator[None]:
    """Author code that calls `sys.exit` would end the program as if all had gone well."""
    try:
        yield
    except SystemExit as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise EnvFault(
            f"code of the run called sys.exit({'' if error.code is None else repr(error.code)}) "
            f"({Path(place.filename).name}:{place.lineno} in {place.name}): let it raise an exception instead",
            who="author",
        ) from error


def open_run(out_dir: str | Path) -> tuple[RunFolder, TrainConfig]:
    """The folder and configuration of a run. Raises: CheckpointError if there is none, or one of another format."""
    folder = RunFolder.open(out_dir)
    config = load_config(TrainConfig, folder.config_path)
    folder.tensorboard = config.run.tensorboard
    return folder, config


def _run(folder: RunFolder, config: TrainConfig, on_progress: OnProgress | None) -> dict[str, Any]:
    if config.learner_threads:
        torch.set_num_threads(config.learner_threads)
    stages = config.make_stages()
    heartbeat = Heartbeat(folder.status_path, stages, on_progress or (lambda progress: None))
    run = Run(folder, config, stages, config.fingerprint(), heartbeat.tell)
    with run.store, heartbeat.of(run.now), asyncio.Runner() as runner:
        return runner.run(run.finish())
