"""What can be known to be wrong before a run begins, so that it is said before a folder or a minute is spent."""

from __future__ import annotations

from pathlib import Path

from agentrl.config import check_config
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.policy import model_folder
from agentrl.training.config import RLConfig, TrainConfig
from agentrl.training.model_setup import NOTHING_TO_BEGIN_FROM, device_of
from agentrl.training.warm_start import check_demonstrators


def check(config: TrainConfig, env: Env) -> None:
    """Refuse a run that cannot work.

    Args:
        config: of the run.
        env: an instance of its environment.
    Raises: ConfigError, ModelError: what is wrong, and what to do.
    """
    check_config(config)
    check_split(env, "train_split", config.env.train_split, "to train on")
    check_split(env, "eval_split", config.env.eval_split, "to evaluate on")
    check_demonstrators(env, config.warm_start.demonstrators)
    check_groups(config.train)
    device_of(config.model.device)
    if config.model.path is not None:
        model_folder.check_files(Path(config.model.path))
    elif not config.warm_start.demonstrators:
        raise ConfigError(NOTHING_TO_BEGIN_FROM)


def check_split(env: Env, key: str, split: str, purpose: str) -> None:
    """Raises: ConfigError if a split is missing or empty."""
    known = env.tasks.splits
    if split in known and env.tasks.split(split):
        return
    what = "is empty" if split in known else f"does not exist; there is {', '.join(map(repr, known))}"
    raise ConfigError(
        f"{type(env).__name__} has no tasks {purpose}: its split {split!r} {what}. "
        f"Give it some, as in Tasks.of(train=[...], eval=[...]), or name another split with env.{key}"
    )


def check_groups(settings: RLConfig) -> None:
    """Raises: ConfigError if no group could ever teach anything."""
    if settings.group_size > 1:
        return
    if settings.advantage != "reinforce_plus_plus":
        raise ConfigError(
            f"train.group_size = 1: {settings.advantage} compares the episodes of a group with each other, so a group "
            "of one teaches nothing; use 2 or more (8 is the tested value), or train.advantage = reinforce_plus_plus"
        )
    if settings.skip_zero_advantage:
        raise ConfigError(
            "train.group_size = 1: a group of one never differs in reward, so every group would be skipped; "
            "set train.skip_zero_advantage = false as well"
        )
