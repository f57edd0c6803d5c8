"""The contract of stages: a stage, its settings, and what the run gives to it. Owns no stage.

A stage is added from outside as a frozen dataclass of its settings: an entry point in the group `agentrl.stages`, or a
reference `module:Class`. `kind` in the TOML names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentrl.bench.evaluate import EvalResult
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Objective
from agentrl.learning.rows import Row
from agentrl.messages import Message
from agentrl.policy.base import SamplingParams
from agentrl.registry import Registry
from agentrl.rollout.sources.tasks import Player
from agentrl.training.stages.environments import PlayedEnv
from agentrl.trajectory import EnvRef, Task, TrajectoryGroup

STAGES = Registry(
    "stage",
    "agentrl.stages",
    {
        "supervise": "agentrl.training.stages.supervise:Supervise",
        "reinforce": "agentrl.training.stages.reinforce:Reinforce",
        "prefer": "agentrl.training.stages.prefer:Prefer",
        "self_distill": "agentrl.training.stages.self_distill:SelfDistill",
        "evaluate": "agentrl.training.stages.evaluate:Evaluate",
    },
)


@dataclass(frozen=True)
class Step:
    """A finished step: the run records the groups and logs the metrics.

    Attributes:
        number, total: number of the step in its stage, from 1, and how many the stage has.
        metrics: numbers by `area/name`; a name that ends in `_s` is in seconds.
        groups: episodes that were played for the step, faults included.
    """

    number: int
    total: int
    metrics: Mapping[str, float]
    groups: Sequence[TrajectoryGroup] = ()


class Context(Protocol):
    """What a run gives to a stage.

    Attributes:
        seed: of the run.
        env: identity of the run's environment; of several, the first one that it learns from.
        environments: all environments of the run, by name.
        sampling: of training episodes.
        rollouts: plays episodes with the policy; all stages share it, and the run closes it.
        max_turns: most turns of an episode.
    """

    seed: int
    env: EnvRef
    environments: Mapping[str, PlayedEnv]
    sampling: SamplingParams
    rollouts: Player
    max_turns: int

    def tasks(self, split: str) -> Sequence[Task]:
        """Tasks of `env`; none if it has no such split.

        Args: split: `train` or `eval`; the run's settings name the environment's split for each.
        """

    def reported(self, environment: str) -> Sequence[Task]:
        """Held-out tasks of an environment that stages may report; none of them is used to choose weights."""

    async def learner(
        self,
        settings: LearnerSettings,
        objective: Objective,
        *,
        temperature: float = 1.0,
        total_steps: int,
        apart: bool = False,
    ) -> Learner:
        """A learner of the run's model with a new optimizer; in a resumed run it has the saved state of the stage.

        Args:
            settings: optimizer, schedule and layout.
            objective: the loss that `update` will be called with.
            temperature: the sampling temperature of the rows.
            total_steps: steps of the stage over which the schedule anneals, at least 1. The stage sets
                `num_steps` of the learner to the steps that are done, so that those without an update count too.
            apart: train a copy of the model with a value head, which the run keeps as the stage's reward model.
        """

    def reward_model(self, stage: str) -> Path:
        """The model folder of the reward model that an earlier stage trained apart."""

    def rows(self, groups: Sequence[TrajectoryGroup]) -> list[Row]:
        """The rows of groups. Demonstrations get their token ids from the policy's chat format.

        Raises: ValueError if an episode has no token ids and is no demonstration.
        """

    async def evaluate(self, tasks: Sequence[Task], sampling: SamplingParams, *, trials: int, name: str) -> EvalResult:
        """`evaluate_each` for tasks of `env` alone."""

    async def evaluate_each(
        self, tasks: Mapping[str, Sequence[Task]], sampling: SamplingParams, *, trials: int, name: str
    ) -> dict[str, EvalResult]:
        """Play held-out tasks of one or more environments, record the episodes, and score them by environment.

        Args:
            tasks: to be played, by name of the environment.
            sampling: of these episodes; temperature 0 is greedy.
            trials: episodes per task.
            name: label of the recorded episodes, such as the stage's name.
        """

    def before_update(self) -> None:
        """Free what the sampler keeps of episodes: the update that follows needs the memory, and makes it stale.

        Turns being sampled continue after their context is computed again, as they do when new weights are published.
        """

    def tell(self, name: str, number: int, total: int) -> None:
        """Report the progress of a part of a stage.

        Args:
            name: of the part, such as `demonstrations`.
            number, total: how much is done, and how much there is.
        """


class Stage(ABC):
    """A stage in progress. At every yield of `steps` its state is complete: the run may save it, stop, or continue.

    Args:
        name: from the TOML: the label of its records, metrics and saved state.
        checkpoint_every: steps between checkpoints.
    Attributes:
        step: steps that are done.
        total: steps of the whole stage, where `plays`.
        plays: whether the steps play training episodes, so that the run may evaluate between them, keep the best
            weights and stop early.
        reports: held-out tasks that the stage reports; none of them is used to choose weights.
        reads_signals: whether episodes have to say how sure the model was of each token (`Action.signals`).
    """

    plays = False
    reports = 0
    total = 0
    reads_signals = False

    def __init__(self, name: str, checkpoint_every: int = 10) -> None:
        self.name, self.checkpoint_every = name, checkpoint_every
        self.step = 0

    @abstractmethod
    def steps(self, context: Context) -> AsyncIterator[Step]:
        """Execute the steps that are not done yet, and yield each when it is finished. An async generator."""

    async def conversations(self, context: Context) -> list[list[Message]]:
        """Conversations that the tokenizer of a model built from scratch is trained on; none by default."""
        return []

    def summary(self) -> dict[str, Any]:
        """JSON values that summary.json shows under the stage's name; read when the stage has finished."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state to continue from, as JSON values."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`; called before `steps`."""
        self.step = state["step"]


class StageSettings(ABC):
    """The settings of a stage: a frozen dataclass that can make the stage and check itself before a run begins."""

    @abstractmethod
    def stage(self, name: str) -> Stage:
        """A new stage with these settings, before its first step.

        Args: name: from the TOML.
        """

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        """Refuse settings that cannot work, before the run's folder is made.

        Args:
            name: of the stage.
            probe: an instance of the run's environment.
            splits: the environment's name of the split for each of `train` and `eval`.
        Raises: ConfigError: what is wrong, and what to do.
        """

    def check_several(self, name: str) -> None:
        """Refuse settings that make no sense in a run over several environments; `check` sees each of these.

        Args: name: of the stage.
        Raises: ConfigError.
        """

    @property
    def trains_reward_model(self) -> bool:
        """Whether the stage leaves a reward model that later stages can name."""
        return False

    @property
    def reward_models(self) -> Sequence[str]:
        """Names of the earlier stages whose reward models the stage reads."""
        return ()

    @property
    def teaches_from_nothing(self) -> bool:
        """Whether a model built from scratch can begin with this stage."""
        return False

    @property
    def environments(self) -> Sequence[str]:
        """Ids of the environments that the stage plays besides the run's own."""
        return ()


def check_split(env: Env, key: str, split: str, purpose: str) -> None:
    """Refuse an environment whose split is missing or empty.

    Args:
        env: an instance.
        key: the key of `env` in the TOML that names the split, `train_split` or `eval_split`.
        split: its name.
        purpose: for the message, such as `to train on`.
    Raises: ConfigError that lists the splits there are.
    """
    known = env.tasks.splits
    if split in known and env.tasks.split(split):
        return
    what = "is empty" if split in known else f"does not exist; there is {', '.join(map(repr, known))}"
    raise ConfigError(
        f"{type(env).__name__} has no tasks {purpose}: its split {split!r} {what}. "
        f"Give it some, as in Tasks.of(train=[...], eval=[...]), or name another split with env.{key}"
    )
