"""The environments of a run: their tasks to train on, to report and to choose weights with. Owns no episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.training.identity import EnvSettings
from agentrl.training.settings import RunSettings
from agentrl.trajectory import EnvRef, Task

OWN = "own"
"""Name of the environment of a run that has one."""


@dataclass(frozen=True)
class PlayedEnv:
    """One environment of a run.

    Attributes:
        name: from the TOML; `own` for the environment of a run that has one.
        ref: its identity, with the version of its package.
        weight: relative share of the training groups.
        demonstrators: relative share of each demonstrator; empty means those of the stage.
        trains: whether the run learns from it; the others are only evaluated.
        train: tasks to learn from.
        held_out: the whole split to evaluate on.
        max_turns: most turns of an episode.
    """

    name: str
    ref: EnvRef
    weight: float
    demonstrators: Mapping[str, float]
    trains: bool
    train: Sequence[Task]
    held_out: Sequence[Task]
    max_turns: int


def played_env(
    name: str, given: EnvSettings, *, weight: float, trains: bool, demonstrators: Mapping[str, float] | None = None
) -> PlayedEnv:
    """The environment, made once to read its tasks."""
    probe = registry.make(given.ref)
    try:
        return PlayedEnv(
            name,
            probe.ref or given.ref,
            weight,
            demonstrators or {},
            trains,
            _split(probe, given.train_split),
            _split(probe, given.eval_split),
            probe.limits.max_turns or 1,
        )
    finally:
        probe.close()


def environments_of(config: RunSettings) -> dict[str, PlayedEnv]:
    """The environments of a run's settings, each made once."""
    if not config.envs:
        return {OWN: played_env(OWN, config.env, weight=1.0, trains=True)}
    return {
        name: played_env(name, env, weight=env.weight, trains=name in config.trained, demonstrators=env.demonstrators)
        for name, env in config.envs.items()
    }


def trained(environments: Mapping[str, PlayedEnv]) -> list[PlayedEnv]:
    """Those that the run learns from."""
    return [env for env in environments.values() if env.trains]


def _split(probe: Env, name: str) -> Sequence[Task]:
    """The tasks of a split; none if there is no such split. A stage that needs one checks it before (`check_split`)."""
    return probe.tasks.split(name) if name in probe.tasks.splits else ()
