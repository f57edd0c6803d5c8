"""The stage `supervise`: cross-entropy on demonstrations that the environment's own scripts play."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agentrl.config import Count, Positive
from agentrl.env.base import Env
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Row, with_coefficients
from agentrl.messages import Message
from agentrl.rollout.sources.demonstrations import Demonstrations, check_demonstrators
from agentrl.seeds import Purpose, sequence
from agentrl.training.stages.base import Context, Stage, StageSettings, Step, check_split
from agentrl.trajectory import Labels, TrajectoryGroup

# A tiny model that saw 2,000 demonstrations of the calculator learnt nothing in 125 updates of 32, and solved it after
# 500 updates of 8.
_UPDATES, _SMALLEST_BATCH, _LARGEST_BATCH = 500, 8, 32


@dataclass(frozen=True)
class Supervise(StageSettings):
    """Supervised training on demonstrations.

    Attributes:
        demonstrators: relative share of each demonstrator method of the environment, by name; without any the stage
            is not run.
        num_episodes: demonstrations, on the train split.
        epochs: passes over them.
        batch_episodes: demonstrations of one update; None makes about 500 updates, of 8 to 32 demonstrations.
        checkpoint_every: updates between checkpoints.
        learner: optimizer and schedule; the rate is annealed over all updates of the stage.
    """

    demonstrators: Mapping[str, Positive] = field(default_factory=dict)
    num_episodes: Count = 8000
    epochs: Count = 2
    batch_episodes: Count | None = None
    checkpoint_every: Count = 50
    learner: LearnerSettings = LearnerSettings(lr=0.02, optimizer="muon", schedule=Schedule("linear", warmup_steps=10))

    def stage(self, name: str) -> Stage:
        return _SuperviseStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        check_split(probe, "train_split", splits["train"], "to train on")
        check_demonstrators(probe, self.demonstrators, f"stages.{name}.demonstrators")

    def batch_of(self, num_rows: int) -> int:
        """Demonstrations of one update, where the stage has `num_rows` of them."""
        even = num_rows * self.epochs // _UPDATES
        return self.batch_episodes or min(max(even, _SMALLEST_BATCH), _LARGEST_BATCH)

    @property
    def teaches_from_nothing(self) -> bool:
        return bool(self.demonstrators)


class _SuperviseStage(Stage):
    def __init__(self, name: str, settings: Supervise) -> None:
        super().__init__(name, settings.checkpoint_every)
        self._settings = settings
        self._groups: list[TrajectoryGroup] | None = None

    async def conversations(self, context: Context) -> list[list[Message]]:
        return [t.messages() for group in await self._demonstrations(context) for t in group.trajectories]

    async def steps(self, context: Context) -> AsyncIterator[Step]:
        rows = context.rows(await self._demonstrations(context))
        settings, size = self._settings, self._settings.batch_of(len(rows))
        order = epoch_order(sequence(context.seed, Purpose.WARM_START_ORDER), len(rows), settings.epochs if rows else 0)
        total = max(1, len(order) // size) if rows else 0
        learner = await context.learner(self._annealed(len(rows)), Supervised(), total_steps=self._length(len(rows)))
        while self.step < total:
            batch = _batch(rows, order[self.step * size : (self.step + 1) * size])
            learner.num_steps = self.step
            metrics = await learner.update(batch, Supervised())
            self.step += 1
            yield Step(self.step, total, metrics)
            await asyncio.sleep(0)  # where Ctrl-C, which cancels this task, can reach it
        await learner.publish()
        self._groups = None

    async def _demonstrations(self, context: Context) -> list[TrajectoryGroup]:
        """The demonstrations, played at the first call; a resumed run plays the same ones again."""
        if self._groups is None:
            settings = self._settings
            context.tell("demonstrations", 0, settings.num_episodes)
            source = Demonstrations(
                context.env,
                context.tasks("train"),
                settings.demonstrators,
                seed=sequence(context.seed, Purpose.DEMONSTRATIONS),
                labels=Labels(self.name),
            )
            self._groups = await source.take(settings.num_episodes)
        return self._groups

    def _length(self, num_rows: int) -> int:
        """Updates over which the rate anneals, at least 1."""
        return max(1, self._settings.epochs * num_rows // self._settings.batch_of(num_rows))

    def _annealed(self, num_rows: int) -> LearnerSettings:
        """The learner's settings with a warm-up no longer than the stage."""
        learner = self._settings.learner
        warmup = min(learner.schedule.warmup_steps, self._length(num_rows))
        return replace(learner, schedule=replace(learner.schedule, warmup_steps=warmup))


def _batch(rows: Sequence[Row], numbers: np.ndarray) -> list[Row]:
    return with_coefficients([rows[i] for i in numbers], "token")


def epoch_order(seed: np.random.SeedSequence, size: int, epochs: int) -> np.ndarray:
    """Indices of the demonstrations in training order: (epochs * size,) int, each epoch shuffled."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.empty(0, int), *(rng.permutation(size) for _ in range(epochs))])
