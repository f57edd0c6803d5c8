"""The plan of `agentrl train`: one dataclass, one TOML file, and the stages that they name. Owns the standard plan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from agentrl.config import OneOf, Whole, check_config, dump_config, from_table
from agentrl.distributed.ray_workers import check_installed
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import ConfigError, did_you_mean
from agentrl.serving.capture.settings import AgentConfig
from agentrl.training import checkpoint, presets
from agentrl.training.algorithms import expanded
from agentrl.training.model_setup import ModelConfig
from agentrl.training.scale.learners import check_learners
from agentrl.training.settings import EnvConfig, MixedEnv, RunConfig, SamplingConfig, ScaleConfig
from agentrl.training.stages.agents import check_agent
from agentrl.training.stages.base import STAGES, Stage, StageSettings
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.trajectory import EnvRef

# Kind of each stage of the standard plan. A file whose stages name no kind changes the settings of these stages; a
# file that names a kind replaces the plan.
_STANDARD = {"warm_start": "supervise", "before": "evaluate", "rl": "reinforce", "after": "evaluate"}
CONTROLS = "controls"
"""The section of a file whose tables describe further arms."""
_SECTION_OF_OLD = {"train": "stages.rl", "warm_start": "stages.warm_start", "eval": "stages.before and stages.after"}


def standard_stages() -> dict[str, StageSettings]:
    """Warm start (left out without demonstrators and data), evaluation, reinforcement, evaluation."""
    return {"warm_start": Supervise(), "before": Evaluate(), "rl": Reinforce(), "after": Evaluate()}


@dataclass(frozen=True)
class TrainConfig:
    """Everything `agentrl train` needs. The defaults are the tested run.

    Attributes:
        env: the run's environment; of several, the first one that it learns from.
        stages: by name, in order. A file without kinds gets the standard plan: `warm_start` (if it has demonstrators or
            data), `before`, `rl`, `after`.
        envs: the environments of a run over several, by name; empty for a run with one.
        train_on: names of those that the run learns from; the others are only evaluated. Empty: all of them.
        scale: which processes learn and sample, or which servers sample.
        agent: a program of its own that plays the episodes; None lets the model itself take the turns.
    """

    env: EnvConfig
    model: ModelConfig = ModelConfig()
    sampling: SamplingConfig = SamplingConfig()
    stages: Mapping[str, Annotated[StageSettings, OneOf(STAGES)]] = field(default_factory=standard_stages)
    run: RunConfig = RunConfig()
    seed: Whole = 0
    envs: Mapping[str, MixedEnv] = field(default_factory=dict)
    train_on: tuple[str, ...] = ()
    scale: ScaleConfig = ScaleConfig()
    agent: AgentConfig | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> TrainConfig:
        """The configuration of a table as a TOML file holds it, with the standard plan and the model's preset.

        `TrainConfig(...)` has no preset: a dataclass cannot tell a value that was given from its default.

        Raises: ConfigError, as `load_config`.
        """
        if not isinstance(table, Mapping):
            raise ConfigError(f"expected a table, such as {{'env': {{'id': 'agentrl/Shop-v0'}}}}, got {table!r}")
        return from_table(cls, cls.completed(deepcopy(dict(table))))

    @staticmethod
    def completed(table: dict[str, Any]) -> dict[str, Any]:
        """The table of a file with the standard plan, where its stages name no kind, and with the model's preset.

        `plan = [NAME, ...]` chooses and orders the stages; `[controls]` is for `agentrl.training.arms`.

        Raises: ConfigError if a stage is not of the standard plan and has no kind, or `plan` names no stage.
        """
        chosen, table = table.get("plan"), {k: v for k, v in table.items() if k not in ("plan", CONTROLS)}
        for old, new in _SECTION_OF_OLD.items():
            if old in table:
                raise ConfigError(f"[{old}] is now [{new}]: the settings of a stage are in the table of that stage")
        table = _with_env(table)
        stages = table.get("stages", {})
        if not isinstance(stages, Mapping):
            return table
        for name, stage in stages.items():
            if not isinstance(stage, Mapping):
                raise ConfigError(
                    f"stages.{name} = {stage!r}: expected a section; a published method is its key algorithm"
                )
        own_plan = any("kind" in s or ("algorithm" in s and n not in _STANDARD) for n, s in _tables(stages))
        stages = {name: expanded(stage, f"stages.{name}") for name, stage in stages.items()}
        if own_plan:
            return presets.with_preset({**table, "stages": _chosen(stages, chosen)})
        for name in stages:
            if name not in _STANDARD:
                raise ConfigError(
                    f"stages.{name} names no kind and is not a stage of the standard plan."
                    f"{did_you_mean(name, _STANDARD)} For a plan of your own give each stage a kind, one of "
                    f"{', '.join(STAGES.names)}"
                )
        for name, stage in _tables(stages):
            if name != "rl" and "kind" in stage:
                raise ConfigError(
                    f"stages.{name}.algorithm: an algorithm learns from episodes: write it in [stages.rl]"
                )
        standard = {name: {"kind": kind, **_table(stages.get(name, {}))} for name, kind in _STANDARD.items()}
        return presets.with_preset({**table, "stages": _chosen(standard, chosen)})

    def planned(self) -> dict[str, StageSettings]:
        """The settings of the stages that are run, by name and in order; `supervise` needs demonstrators or data."""
        return {
            name: settings
            for name, settings in self.stages.items()
            if not (isinstance(settings, Supervise) and not settings.teaches_from_nothing)
        }

    def make_stages(self) -> list[Stage]:
        """The stages, at their beginning."""
        return [settings.stage(name) for name, settings in self.planned().items()]

    def other_environments(self) -> list[EnvRef]:
        """The environments that stages play besides the run's own, each once."""
        ids = [id for settings in self.planned().values() for id in settings.environments]
        return [EnvRef(id) for id in dict.fromkeys(ids)]

    @property
    def trained(self) -> Sequence[str]:
        """Names of the environments in `envs` that the run learns from."""
        return self.train_on or list(self.envs)

    def like(self, recorded: TrainConfig) -> TrainConfig:
        """These settings, with what they leave open as a run recorded it."""
        if self.model.dtype != "auto":
            return self
        return replace(self, model=replace(self.model, dtype=recorded.model.dtype))

    def fingerprint(self) -> str:
        """A hash of all settings that change the next step.

        Other settings, such as the number of kept checkpoints, may be edited before a run is resumed.
        """
        run = self.run
        free = ("keep_checkpoints", "keep_stages", "threads", "record_trajectories", "tensorboard")
        kept = replace(run, **{name: getattr(RunConfig(), name) for name in free})
        return checkpoint.fingerprint({"config": dump_config(replace(self, run=kept, scale=ScaleConfig()))})

    def check(self, probe: Env) -> None:
        """Refuse a run that cannot work, before its folder is made.

        Args: probe: an instance of its environment.
        Raises: ConfigError, ModelError: what is wrong, and what to do.
        """
        check_config(self)
        planned = self.planned()
        if self.agent is not None:
            check_agent(self.envs, planned)
        if self.envs:
            self._check_environments(planned)
        else:
            self._check_stages(planned, probe, self.env)
        if self.scale.samplers:
            self._check_samplers(planned)
        elif self.scale.engine == "ray":
            raise ConfigError("scale.engine = 'ray' starts samplers: set scale.samplers to their number")
        if self.scale.server:
            self._check_servers()
        check_learners(self.scale, self.model.device, planned)
        self.model.check(teaches_from_nothing=any(settings.teaches_from_nothing for settings in planned.values()))

    def _check_servers(self) -> None:
        """Refuse what inference servers cannot sample."""
        if self.scale.samplers or self.agent is not None:
            what = "scale.samplers" if self.scale.samplers else "[agent]"
            raise ConfigError(f"{what} samples with the embedded engine: leave it out, or leave out scale.server")
        reading = [stage.name for stage in self.make_stages() if stage.reads_signals]
        self.scale.check_servers(reading)

    def _check_samplers(self, planned: Mapping[str, StageSettings]) -> None:
        """Refuse what cannot be played in other processes."""
        if self.scale.engine == "ray":
            check_installed()
        elif self.scale.address is not None:
            raise ConfigError("scale.address names a Ray cluster: set scale.engine = 'ray' too")
        if self.agent is not None:
            raise ConfigError("[agent] asks the model of this process: leave out [agent], or set scale.samplers = 0")
        for name, playing in _playing(planned).items():
            if playing.few_shot:
                raise ConfigError(
                    f"stages.{name}.playing.few_shot plays with the trainer's policy: leave it out, or set "
                    "scale.samplers = 0"
                )
        ids = [env.id for env in (self.env, *self.envs.values())]
        registry.modules_of([*ids, *(ref.id for ref in self.other_environments())])

    @property
    def learner_threads(self) -> int:
        """Torch threads of each process that learns; 0 leaves torch's choice."""
        overlaps = self._overlaps
        if self.run.threads or not (overlaps or self.scale.learners > 1):
            return self.run.threads
        free = (os.cpu_count() or 1) - (self.scale.samplers * self.scale.threads if overlaps else 0)
        return max(1, free // self.scale.learners)

    @property
    def busy_cores(self) -> int:
        """Cores of this machine that the processes of a run keep busy at once: those that learn, and its samplers.

        At `max_lag = 0` they take turns. Samplers on a Ray cluster do not count: Ray gives them cores.
        """
        learning = self.scale.learners * max(1, self.run.threads)
        sampling = 0 if self.scale.address else self.scale.samplers * self.scale.threads
        return learning + sampling if self._overlaps else max(learning, sampling)

    @property
    def _overlaps(self) -> bool:
        """Whether samplers play while the learner updates."""
        return self.scale.samplers > 0 and any(p.max_lag for p in _playing(self.planned()).values())

    def _check_stages(self, planned: Mapping[str, StageSettings], probe: Env, env: EnvConfig) -> None:
        judges: list[str] = []
        for name, settings in planned.items():
            settings.check(name, probe, {"train": env.train_split, "eval": env.eval_split})
            for judge in settings.reward_models:
                if judge not in judges:
                    raise ConfigError(
                        f"stages.{name}: no earlier stage {judge!r} trains a reward model."
                        f"{did_you_mean(judge, judges)} "
                        "A stage that does has algorithm = 'reward_model' and apart = true"
                    )
            judges += [name] if settings.trains_reward_model else []

    def _check_environments(self, planned: Mapping[str, StageSettings]) -> None:
        """Refuse environments that are the same, or that a stage cannot teach or evaluate."""
        refs: dict[str, str] = {}
        for name, settings in planned.items():
            settings.check_several(name)
        for name, env in self.envs.items():
            if refs.setdefault(env.ref.key, name) != name:
                raise ConfigError(f"envs.{name} and envs.{refs[env.ref.key]} are the same environment: leave out one")
            stages = {
                n: _of_environment(stage, env)
                for n, stage in planned.items()
                if name in self.trained or isinstance(stage, Evaluate)
            }
            with closing(registry.make(env.ref)) as probe:
                try:
                    self._check_stages(stages, probe, env)
                except ConfigError as error:
                    raise ConfigError(f"envs.{name}: {error}") from error


def _playing(stages: Mapping[str, StageSettings]) -> dict[str, Playing]:
    """How the stages play that play training episodes, by their name."""
    found = {name: getattr(settings, "playing", None) for name, settings in stages.items()}
    return {name: playing for name, playing in found.items() if isinstance(playing, Playing)}


def _of_environment(stage: StageSettings, env: MixedEnv) -> StageSettings:
    """The stage with the environment's own demonstrators, if it has some."""
    if isinstance(stage, Supervise) and stage.demonstrators and env.demonstrators:
        return replace(stage, demonstrators=env.demonstrators)
    return stage


def _with_env(table: dict[str, Any]) -> dict[str, Any]:
    """The table with `env` taken from the first of `envs` that the run learns from. Raises: ConfigError."""
    envs, names = table.get("envs"), table.get("train_on") or ()
    if not envs or not isinstance(envs, Mapping):
        if names:
            raise ConfigError("train_on names environments of [envs.NAME], and there are none")
        return table
    if isinstance(names, str) or len({*names}) < len(names):
        raise ConfigError(f"train_on = {names!r}: expected a list of different names of [envs.NAME]")
    for name in names:
        if name not in envs:
            raise ConfigError(f"train_on: there is no [envs.{name}].{did_you_mean(name, envs)}")
    own = ("weight", "demonstrators")
    first = {key: v for key, v in _table(envs[next(iter(names), next(iter(envs)))]).items() if key not in own}
    if table.get("env", first) != first:
        raise ConfigError("a file has [env] or [envs.NAME], not both: write the environment of [env] as one of [envs]")
    return {**table, "env": first}


def _chosen(stages: Mapping[str, Any], plan: Any) -> dict[str, Any]:
    """The stages that `plan` names, in its order; all if there is none. Raises: ConfigError."""
    if plan is None:
        return dict(stages)
    if not isinstance(plan, list) or not all(isinstance(name, str) for name in plan) or len({*plan}) < len(plan):
        raise ConfigError(f"plan = {plan!r}: expected a list of different names of stages")
    for name in plan:
        if name not in stages:
            raise ConfigError(f"plan: there is no stage {name!r}.{did_you_mean(name, stages)}")
    return {name: stages[name] for name in plan}


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tables(stages: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, stage) for name, stage in stages.items() if isinstance(stage, Mapping)]
