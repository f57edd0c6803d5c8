"""The stage `supervise`: cross-entropy on demonstrations of the environment's own scripts, and on recorded episodes."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from statistics import fmean
from typing import Any

import numpy as np

from agentrl.config import Count, Fraction, Positive
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Row, with_coefficients
from agentrl.messages import Message
from agentrl.rollout.sources.chat_file import turn_weights
from agentrl.rollout.sources.demonstrations import Demonstrations, check_demonstrators
from agentrl.rollout.sources.kept import demonstrations_identity, kept
from agentrl.rollout.sources.recorded import Recorded, check_digest, digest_of
from agentrl.seeds import Purpose, sequence
from agentrl.training.stages.base import Context, Stage, StageSettings, Step, check_split
from agentrl.training.stages.environments import OWN, PlayedEnv, trained
from agentrl.trajectory import Labels, Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)

# A tiny model that saw 2,000 demonstrations of the calculator learnt nothing in 125 updates of 32, and solved it after
# 500 updates of 8.
_UPDATES, _SMALLEST_BATCH, _LARGEST_BATCH = 500, 8, 32

_TEXTS = 500
"""Conversations of all environments together from which the tokenizer of a model built from scratch is made, where
there are several."""

WINDOW = 100
"""Updates whose mean loss is compared with that of as many before."""
_COOL_DOWN = 0.2  # of the updates until the loss was flat: the share over which the rate falls to 0


@dataclass(frozen=True)
class Supervise(StageSettings):
    """Supervised training on demonstrations and recorded episodes; without either the stage is not run.

    Attributes:
        demonstrators: relative share of each demonstrator method of the environment, by name.
        num_episodes: demonstrations, on the train split; of several environments, those of each, times its weight.
        episodes_per_task: most demonstrations of a task; where there are fewer tasks than `num_episodes` allows,
            `epochs` are then passes over the tasks. None sets no limit.
        keep_demonstrations: a folder in which they are kept; a run of the same environment, tasks, demonstrators,
            number and seed takes them from there.
        data: recorded episodes to learn from as well, or instead.
        epochs: passes over all episodes.
        batch_episodes: episodes of one update; None makes about 500 updates, of 8 to 32 episodes.
        stop_when_flat: end the stage early when the loss of 100 updates is below that of the 100 before by less than
            this share of it (`is_flat`); the rate is then annealed over a few further updates. 0 never ends it early.
        checkpoint_every: updates between checkpoints.
        learner: optimizer and schedule; the rate is annealed over all updates of the stage.
    """

    demonstrators: Mapping[str, Positive] = field(default_factory=dict)
    num_episodes: Count = 8000
    episodes_per_task: Count | None = None
    keep_demonstrations: str | None = None
    data: tuple[Recorded, ...] = ()
    epochs: Count = 2
    batch_episodes: Count | None = None
    stop_when_flat: Fraction = 0.1
    checkpoint_every: Count = 50
    learner: LearnerSettings = LearnerSettings(lr=0.02, optimizer="muon", schedule=Schedule("linear", warmup_steps=10))

    def stage(self, name: str) -> Stage:
        return _SuperviseStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        if self.demonstrators or not self.data:
            check_split(probe, "train_split", splits["train"], "to train on")
        check_demonstrators(probe, self.demonstrators, f"stages.{name}.demonstrators")
        for number, recorded in enumerate(self.data):
            recorded.check(f"stages.{name}.data[{number}]")

    def batch_of(self, num_rows: int) -> int:
        """Demonstrations of one update, where the stage has `num_rows` of them."""
        even = num_rows * self.epochs // _UPDATES
        return self.batch_episodes or min(max(even, _SMALLEST_BATCH), _LARGEST_BATCH)

    @property
    def teaches_from_nothing(self) -> bool:
        return bool(self.demonstrators or self.data)


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
        self._digest = ""

    async def conversations(self, context: Context) -> list[list[Message]]:
        several = len(context.environments) > 1
        played = await (self._texts(context) if several else self._demonstrations(context))
        recorded = self._recorded()
        alternating = chain.from_iterable(zip_longest(_episodes(recorded), _episodes(played)))
        return [episode.messages() for episode in alternating if episode is not None]

    async def steps(self, context: Context) -> AsyncIterator[Step]:
        self._check_data()
        rows = self._rows(context, [*await self._demonstrations(context), *self._recorded()])
        settings, size = self._settings, self._settings.batch_of(len(rows))
        order = epoch_order(sequence(context.seed, Purpose.WARM_START_ORDER), len(rows), settings.epochs if rows else 0)
        self._planned = max(1, len(order) // size) if rows else 0
        learner = await context.learner(self._annealed(), Supervised(), total_steps=max(1, self._end))
        while self.step < self._end:
            batch = _batch(rows, order[self.step * size : (self.step + 1) * size])
            learner.num_steps = self.step
            metrics = await learner.update(batch, Supervised())
            self.step += 1
            self._watch(metrics["loss/supervised"])
            learner.total_steps = max(1, self._end)
            yield Step(self.step, self._end, metrics)
            await asyncio.sleep(0)  # where Ctrl-C, which cancels this task, can reach it
        await learner.publish()
        self._groups = None

    def _rows(self, context: Context, groups: Sequence[TrajectoryGroup]) -> list[Row]:
        rows = context.rows(groups)
        episodes = _episodes(groups)
        left_out = len({n for n, e in enumerate(episodes) if e.trains} - {row.trajectory for row in rows})
        if left_out:
            logger.warning(
                "%d of %d episodes are left out: their token ids are not of this model's tokenizer, and a turn that "
                "was cut off, or a call that could not be read, cannot be written again",
                left_out,
                len(episodes),
            )
        return _weighted(rows, [turn_weights(episode) for episode in episodes])

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

    async def _demonstrations(self, context: Context) -> list[TrajectoryGroup]:
        """The demonstrations, played at the first call; a resumed run plays the same ones again."""
        settings = self._settings
        if self._groups is None and settings.demonstrators:
            self._groups = _in_turn([await self._played(context, env) for env in trained(context.environments)])
        return self._groups or []

    async def _texts(self, context: Context) -> list[TrajectoryGroup]:
        """A few demonstrations of every environment, for the tokenizer: the same whichever ones the run learns from.

        So a run can spell what it only evaluates, and runs that learn from different environments have one tokenizer.
        """
        if not self._settings.demonstrators:
            return []
        environments = [env for env in context.environments.values() if env.train and self._can_show(env)]
        each = -(-_TEXTS // max(1, len(environments)))
        return _in_turn([await self._source(context, env).take(each) for env in environments])

    def _can_show(self, env: PlayedEnv) -> bool:
        with closing(registry.make(env.ref)) as probe:
            return all(callable(getattr(probe, name, None)) for name in self._shares(env))

    def _shares(self, env: PlayedEnv) -> Mapping[str, float]:
        return env.demonstrators or self._settings.demonstrators

    async def _played(self, context: Context, env: PlayedEnv) -> list[TrajectoryGroup]:
        """Demonstrations of an environment: a function of the run's seed and the environment's name."""
        settings = self._settings
        count = max(1, round(settings.num_episodes * env.weight))
        if settings.episodes_per_task is not None:
            count = min(count, settings.episodes_per_task * len(env.train))
        context.tell("demonstrations" if env.name == OWN else f"demonstrations of {env.name}", 0, count)
        source = self._source(context, env)
        if settings.keep_demonstrations is None:
            return await source.take(count)
        identity = demonstrations_identity(env.ref, env.train, self._shares(env), count, context.seed)
        identity |= {} if env.name == OWN else {"name": env.name}
        return await kept(settings.keep_demonstrations, identity, source, count, Labels(self.name))

    def _source(self, context: Context, env: PlayedEnv) -> Demonstrations:
        key = () if env.name == OWN else (zlib.crc32(env.name.encode()),)
        seed = sequence(context.seed, Purpose.DEMONSTRATIONS, *key)
        return Demonstrations(env.ref, env.train, self._shares(env), seed=seed, labels=Labels(self.name))

    def _recorded(self) -> list[TrajectoryGroup]:
        """The recorded episodes, each a group of its own."""
        episodes = [episode for recorded in self._settings.data for episode in recorded.read()]
        return [TrajectoryGroup(f"data-{number}", [episode]) for number, episode in enumerate(episodes)]

    def _check_data(self) -> None:
        """Raise ConfigError if a resumed stage would learn from other data than it began with."""
        files = [recorded.file for recorded in self._settings.data]
        now = digest_of(files)
        check_digest(self._digest or now, now, files)
        self._digest = now

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "data": self._digest, "losses": self._losses, "flat_at": self._flat_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._digest = state["data"]
        self._losses, self._flat_at = list(state["losses"]), state["flat_at"]

    def _annealed(self) -> LearnerSettings:
        """The learner's settings with a warm-up no longer than the stage."""
        learner = self._settings.learner
        warmup = min(learner.schedule.warmup_steps, max(1, self._planned))
        return replace(learner, schedule=replace(learner.schedule, warmup_steps=warmup))


def _in_turn(groups: Sequence[Sequence[TrajectoryGroup]]) -> list[TrajectoryGroup]:
    """The first of each list, then the second of each, and so on."""
    return [group for group in chain.from_iterable(zip_longest(*groups)) if group is not None]


def _episodes(groups: Sequence[TrajectoryGroup]) -> list[Trajectory]:
    return [episode for group in groups for episode in group.trajectories]


def _weighted(rows: Sequence[Row], weights: Sequence[tuple[float, ...] | None]) -> list[Row]:
    """The rows with a column `weights` of each token's turn, if an episode has any.

    Args: weights: of each episode's turns; None where all weigh 1.
    """
    if not any(weights):
        return list(rows)
    return [row.with_columns(weights=_of_tokens(row, weights[row.trajectory])) for row in rows]


def _of_tokens(row: Row, weights: tuple[float, ...] | None) -> np.ndarray:
    of_turns = np.asarray(weights or np.ones(int(row.column("turns").max()) + 1), np.float32)
    return np.where(row.mask, of_turns[np.where(row.mask, row.column("turns"), 0)], 0).astype(np.float32)


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
    """The rows of an update: each token weighs the same, or in proportion to the weight of its turn."""
    batch = [rows[i] for i in numbers]
    if "weights" not in batch[0].columns:
        return with_coefficients(batch, "token")
    total = sum(float(row.column("weights").sum()) for row in batch) or 1.0
    return [row.with_columns(coefficients=row.column("weights") / np.float32(total)) for row in batch]


def epoch_order(seed: np.random.SeedSequence, size: int, epochs: int) -> np.ndarray:
    """Indices of the demonstrations in training order: (epochs * size,) int, each epoch shuffled."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.empty(0, int), *(rng.permutation(size) for _ in range(epochs))])
