"""The stage `supervise`: cross-entropy on demonstrations that the environment's own scripts play."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from agentrl.config import Count, Fraction, Positive
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

WINDOW = 100
"""Updates whose mean loss is compared with that of as many before."""
_COOL_DOWN = 0.2  # of the updates until the loss was flat: the share over which the rate falls to 0
_ENOUGH_UPDATES = 500
_BATCH_SIZES = (8, 32)


@dataclass(frozen=True)
class Supervise(StageSettings):
    """Supervised training on demonstrations.

    Attributes:
        demonstrators: relative share of each demonstrator method of the environment, by name; without any the stage
            is not run.
        num_episodes: demonstrations, on the train split.
        epochs: passes over them.
        batch_episodes: demonstrations of one update; None is as many as give `_ENOUGH_UPDATES` updates, from 8 to 32.
        stop_when_flat: end the stage early when the loss of 100 updates is below that of the 100 before by less than
            this share of it (`flat_at`); the rate is then annealed over a few further updates. 0 never ends it early.
        checkpoint_every: updates between checkpoints.
        learner: optimizer and schedule; the rate is annealed over all updates of the stage.
    """

    demonstrators: Mapping[str, Positive] = field(default_factory=dict)
    num_episodes: Count = 8000
    epochs: Count = 2
    batch_episodes: Count | None = None
    stop_when_flat: Fraction = 0.1
    checkpoint_every: Count = 50
    learner: LearnerSettings = LearnerSettings(lr=0.02, optimizer="muon", schedule=Schedule("linear", warmup_steps=10))

    def stage(self, name: str) -> Stage:
        return _SuperviseStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        check_split(probe, "train_split", splits["train"], "to train on")
        check_demonstrators(probe, self.demonstrators, f"stages.{name}.demonstrators")

    @property
    def teaches_from_nothing(self) -> bool:
        return bool(self.demonstrators)

    def batch_size(self, num_rows: int) -> int:
        """Demonstrations of one update."""
        few, many = _BATCH_SIZES
        return self.batch_episodes or min(max(self.epochs * num_rows // _ENOUGH_UPDATES, few), many)


class _SuperviseStage(Stage):
    """Supervision in progress.

    A plateau shortens the stage: its learning rate then falls to 0 by the new end, because a loss that is flat at a
    high rate still has the noise of that rate.
    """

    def __init__(self, name: str, settings: Supervise) -> None:
        super().__init__(name, settings.checkpoint_every)
        self._settings = settings
        self._losses: list[float] = []
        self._planned = 0
        self._flat_at: int | None = None
        self._groups: list[TrajectoryGroup] | None = None

    async def conversations(self, context: Context) -> list[list[Message]]:
        return [t.messages() for group in await self._demonstrations(context) for t in group.trajectories]

    async def steps(self, context: Context) -> AsyncIterator[Step]:
        rows = context.rows(await self._demonstrations(context))
        settings, size = self._settings, self._settings.batch_size(len(rows))
        order = epoch_order(sequence(context.seed, Purpose.WARM_START_ORDER), len(rows), settings.epochs if rows else 0)
        self._planned = max(1, len(order) // size) if rows else 0
        learner = await context.learner(self._annealed(), Supervised(), total_steps=max(1, self._end))
        while self.step < self._end:
            batch = _batch(rows, order[self.step * size : (self.step + 1) * size])
            metrics = await learner.update(batch, Supervised())
            self.step += 1
            self._watch(metrics["loss/supervised"])
            learner.total_steps = max(1, self._end)
            yield Step(self.step, self._end, metrics)
            await asyncio.sleep(0)  # where Ctrl-C, which cancels this task, can reach it
        await learner.publish()
        self._groups = None

    def _watch(self, loss: float) -> None:
        """Note the loss of an update, and when the losses became flat."""
        self._losses = [*self._losses[1 - 2 * WINDOW :], loss]
        if self._flat_at is None and is_flat(self._losses, self._settings.stop_when_flat):
            self._flat_at = self.step

    @property
    def _end(self) -> int:
        """Number of the last update."""
        if self._flat_at is None:
            return self._planned
        anneals = self._settings.learner.schedule.name != "constant"
        return min(self._planned, self._flat_at + (round(self._flat_at * _COOL_DOWN) if anneals else 0))

    def summary(self) -> dict[str, Any]:
        return {"updates": self.step, "planned_updates": self._planned, "flat_at": self._flat_at}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "losses": self._losses, "flat_at": self._flat_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._losses, self._flat_at = list(state["losses"]), state["flat_at"]

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

    def _annealed(self) -> LearnerSettings:
        """The learner's settings with a warm-up no longer than the stage."""
        learner = self._settings.learner
        warmup = min(learner.schedule.warmup_steps, max(1, self._planned))
        return replace(learner, schedule=replace(learner.schedule, warmup_steps=warmup))


def is_flat(losses: Sequence[float], least: float) -> bool:
    """Whether a loss has stopped falling: the mean of the newest `WINDOW` is not below the mean of those before by more
    than the share `least` of it.

    Args:
        losses: the newest of all updates; fewer than two windows are never flat.
        least: share of the loss; 0 says that no loss is flat.
    """
    if not least or len(losses) < 2 * WINDOW:
        return False
    before, now = fmean(losses[-2 * WINDOW : -WINDOW]), fmean(losses[-WINDOW:])
    return now > (1 - least) * before


def _batch(rows: Sequence[Row], numbers: np.ndarray) -> list[Row]:
    return with_coefficients([rows[i] for i in numbers], "token")


def epoch_order(seed: np.random.SeedSequence, size: int, epochs: int) -> np.ndarray:
    """Indices of the demonstrations in training order: (epochs * size,) int, each epoch shuffled."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.empty(0, int), *(rng.permutation(size) for _ in range(epochs))])
