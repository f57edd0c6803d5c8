"""The contract of stages: what a phase of a run is, and what the run lends to it. Owns no phase.

A third party adds a stage as a frozen dataclass of its settings by an entry point in `agentrl.stages`, or by its
reference; `kind` in the TOML names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
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
from agentrl.rollout.runner import Rollouts
from agentrl.trajectory import EnvRef, Task, TrajectoryGroup

STAGES = Registry(
    "stage",
    "agentrl.stages",
    {
        "supervise": "agentrl.training.stages.supervise:Supervise",
        "reinforce": "agentrl.training.stages.reinforce:Reinforce",
        "prefer": "agentrl.training.stages.prefer:Prefer",
        "evaluate": "agentrl.training.stages.evaluate:Evaluate",
    },
)


@dataclass(frozen=True)
class Step:
    """A finished step: the run records the groups and logs the metrics.

    Attributes:
        number, total: of the stage.
        metrics: `area/name`.
        groups: episodes that were played for it.
    """

    number: int
    total: int
    metrics: Mapping[str, float]
    groups: Sequence[TrajectoryGroup] = ()


class Context(Protocol):
    """What a run lends to a stage."""

    seed: int
    env: EnvRef
    sampling: SamplingParams
    rollouts: Rollouts
    max_turns: int

    def tasks(self, split: str) -> Sequence[Task]:
        """Tasks of the run's environment: `train` or `eval` as the run names its splits."""

    async def learner(
        self, settings: LearnerSettings, objective: Objective, *, temperature: float = 1.0, total_steps: int
    ) -> Learner:
        """A learner of the run's model with a fresh optimizer; in a resumed run that of the stage as it was saved."""

    def rows(self, groups: Sequence[TrajectoryGroup]) -> list[Row]:
        """The rows of groups; demonstrations get ids by the policy's chat format."""

    async def evaluate(self, tasks: Sequence[Task], sampling: SamplingParams, *, trials: int, name: str) -> EvalResult:
        """Play held-out tasks, record the episodes under the stage's name, and score them."""

    def tell(self, name: str, number: int, total: int) -> None:
        """Say how far something inside a step is."""


class Stage(ABC):
    """A phase in progress. Whenever `steps` yields, its state is whole: the run may save it, stop it, or go on.

    Args:
        name: from the TOML: the label of its records, metrics and saved state.
        checkpoint_every: steps between checkpoints.
    """

    def __init__(self, name: str, checkpoint_every: int = 10) -> None:
        self.name, self.checkpoint_every = name, checkpoint_every
        self.step = 0

    @abstractmethod
    def steps(self, context: Context) -> AsyncIterator[Step]:
        """Do what is still to do, a step at a time."""

    async def conversations(self, context: Context) -> list[list[Message]]:
        """Texts that a model built from scratch learns its vocabulary from; none by default."""
        return []

    def summary(self) -> dict[str, Any]:
        """What goes into summary.json under the stage's name; saved with the stage."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON to go on from."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.step = state["step"]


class StageSettings(ABC):
    """The settings of a stage: a frozen dataclass that can make the stage and check itself before a run begins."""

    @abstractmethod
    def stage(self, name: str) -> Stage:
        """The stage, at its beginning."""

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        """Refuse what cannot work, before a folder or a minute is spent.

        Args:
            name: of the stage.
            probe: an instance of the run's environment.
            splits: the environment's names for `train` and `eval`.
        Raises: ConfigError: what is wrong, and what to do.
        """

    @property
    def teaches_from_nothing(self) -> bool:
        """Whether a model built from scratch can begin with this stage."""
        return False


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
