"""The settings that a run itself reads: environment, sampling, limits, checkpoints and records.

Those of its model are in `model_setup`, those of a stage in the stage's own module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from agentrl.config import Count, NotNegative, Positive, Share, Whole
from agentrl.env import registry
from agentrl.sampling import SamplingParams
from agentrl.serving.capture.settings import AgentConfig
from agentrl.training.model_setup import ModelConfig
from agentrl.training.scale.servers import ServerConfig
from agentrl.trajectory import EnvRef


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and how it is made.

    Attributes:
        id: a registered id, `package.module:Class`, or `./file.py:Class`.
        max_turns: overrides the environment's own limit.
        kwargs: given to its constructor.
        train_split, eval_split: names of the environment's task splits.
    """

    id: str
    max_turns: Count | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    eval_split: str = "eval"

    @property
    def ref(self) -> EnvRef:
        """The environment's identity."""
        limits = {} if self.max_turns is None else {"max_turns": self.max_turns}
        return registry.reference(self.id, **self.kwargs, **limits)


@dataclass(frozen=True)
class MixedEnv(EnvConfig):
    """One of the environments of a run over several, `[envs.NAME]`.

    Attributes:
        weight: relative share of the training groups; 1.0 also is `num_episodes` demonstrations, 0.5 half of them.
        demonstrators: relative share of each of its demonstrator methods, in place of those of the stage.
    """

    weight: Positive = 1.0
    demonstrators: Mapping[str, Positive] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingConfig:
    """How the policy samples training episodes; evaluation takes `max_tokens` and `top_p` from here.

    Attributes:
        temperature, top_p: of training episodes.
        max_tokens: most tokens of one turn.
        exact: sample each turn with the same bits, whatever else is sampled at the same time, so that `agentrl
            reproduce` finds the same tokens. None does so where the machine and the model allow it.
    """

    temperature: float = 1.0
    top_p: Share = 1.0
    max_tokens: Count = 64
    exact: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 to train, and finite, got {self.temperature}")

    def params(self, *, signals: bool = False) -> SamplingParams:
        """What a policy is asked for. Args: signals: as in `SamplingParams`."""
        return SamplingParams(self.temperature, self.top_p, max_tokens=self.max_tokens, signals=signals)


@dataclass(frozen=True)
class RunConfig:
    """Evaluation inside stages, limits, checkpoints and records.

    Attributes:
        evaluate_every: steps between two evaluations inside a stage that plays episodes; 0 turns them off.
        evaluate_tasks: held-out tasks of such an evaluation; the tables of the run report others.
        keep_best: keep the weights of the best of these evaluations, and stop early by the two rules that follow.
        stop_when_solved: stop a stage where the lower end of the evaluation's 95% interval is at least this success.
        stop_when_worse: stop it after this many evaluations in a row that are clearly worse than the best; 0 is never.
        max_concurrency: episodes under way at once, of all stages and environments together.
        keep_checkpoints: newest checkpoints that stay.
        checkpoint_seconds: a checkpoint is written at the first step that ends at least this many seconds after the
            last one, whatever a stage's `checkpoint_every` says, so that little work is lost; 0 turns this off.
        threads: torch threads; 0 leaves torch's choice.
        keep_stages: stages at whose end the checkpoint is kept in `stage_ends/`, for arms that begin with the same
            stages.
        record_trajectories: write every training episode to the store.
        tensorboard: write TensorBoard events as well as metrics.jsonl.
    """

    evaluate_every: Whole = 5
    evaluate_tasks: Count = 128
    keep_best: bool = True
    stop_when_solved: Share = 0.9
    stop_when_worse: Whole = 2
    max_concurrency: Count = 128
    keep_checkpoints: Count = 2
    checkpoint_seconds: NotNegative = 300.0
    keep_stages: tuple[str, ...] = ()
    threads: Whole = 1
    record_trajectories: bool = True
    tensorboard: bool = True


@dataclass(frozen=True)
class ScaleConfig(ServerConfig):
    """Which processes sample episodes, on this machine or on those of a Ray cluster, or which inference servers; and
    how many processes of this machine learn.

    Attributes:
        learners: processes that learn, the one that is started included: each works on a share of a step's rows, on
            GPUs each on one of its own.
        shard: spread the weights, their gradients and the optimizer's state over them; otherwise each has all.
        samplers: sampling processes; 0 samples in the process that learns. They share `run.max_concurrency`.
        engine: who starts them: `processes` of this machine, or `ray`.
        address: of a Ray cluster; `auto` is the one that this machine belongs to, None starts Ray on this machine.
        threads: torch threads of each of them.
        cache: what becomes of keys and values that old weights computed when new ones come while a turn is sampled:
            `drop` computes them again; `keep` goes on with them, which costs less, but a token's log-probability is
            then that of no one version.
        restarts: most times that a group is begun again because its sampler was lost, and most samplers lost in a row
            without a group played; then the run ends with an error.
        server, server_kind, server_folder, server_tolerance, server_timeout_s, server_wait_s: see `ServerConfig`.
    """

    learners: Count = 1
    shard: bool = False
    samplers: Whole = 0
    engine: Literal["processes", "ray"] = "processes"
    address: str | None = None
    threads: Count = 1
    cache: Literal["drop", "keep"] = "drop"
    restarts: Whole = 3


class RunSettings(Protocol):
    """The part of a configuration that the run itself reads. The stages have been made from the rest."""

    @property
    def env(self) -> EnvConfig: ...
    @property
    def envs(self) -> Mapping[str, MixedEnv]: ...
    @property
    def trained(self) -> Sequence[str]: ...
    @property
    def model(self) -> ModelConfig: ...
    @property
    def sampling(self) -> SamplingConfig: ...
    @property
    def run(self) -> RunConfig: ...
    @property
    def scale(self) -> ScaleConfig: ...
    @property
    def agent(self) -> AgentConfig | None: ...
    @property
    def seed(self) -> int: ...
    def other_environments(self) -> Sequence[EnvRef]: ...
