"""The stage `prefer`: preference optimisation on pairs of episodes of one task."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from agentrl.config import Count, OneOf, Whole
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.episode_columns import pairs
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective
from agentrl.learning.objectives.preference import DPO
from agentrl.rollout.feedback.base import FEEDBACKS, Feedback
from agentrl.rollout.feedback.rewarded import PreferRewarded
from agentrl.rollout.sources.base import Source
from agentrl.rollout.sources.stored import Stored, check_stored
from agentrl.training.stages.base import Context, Stage, StageSettings, Step
from agentrl.training.stages.group_stage import GroupStage
from agentrl.training.stages.playing import Playing, rollout_metrics
from agentrl.trajectory import TrajectoryGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prefer(StageSettings):
    """Preference optimisation (DPO).

    Attributes:
        steps: updates of the policy.
        playing: which episodes are played, and how many.
        store: path of a `trajectories.jsonl` whose groups are used, so that nothing is played; they need token ids.
        store_stage: only episodes that the stage of this name recorded.
        feedback: says which episode of a group is preferred; applied in order.
        objective: the loss over pairs.
        checkpoint_every: steps between checkpoints.
        learner: optimizer and schedule.
    """

    steps: Whole = 20
    playing: Playing = Playing()
    store: str | None = None
    store_stage: str | None = None
    feedback: tuple[Annotated[Feedback, OneOf(FEEDBACKS)], ...] = (PreferRewarded(),)
    objective: Annotated[Objective, OneOf(OBJECTIVES)] = DPO()
    checkpoint_every: Count = 10
    learner: LearnerSettings = LearnerSettings(lr=1e-4)

    def stage(self, name: str) -> Stage:
        return _PreferStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        if self.objective.unit != "pair":
            raise ConfigError(
                f"stages.{name}.objective: {OBJECTIVES.name_of(type(self.objective))} is no loss over pairs; use dpo, "
                "or train with it in a stage of kind reinforce"
            )
        if self.store is not None:
            check_stored(self.store, self.store_stage, f"stages.{name}.store")
            return
        self.playing.check(f"stages.{name}.playing", probe, splits["train"])
        if self.playing.group_size < 2:
            raise ConfigError(
                f"stages.{name}.playing.group_size = 1: a pair needs two episodes of a task; use 2 or more"
            )

    @property
    def environments(self) -> Sequence[str]:
        return self.playing.others if self.store is None else ()


class _PreferStage(GroupStage):
    def __init__(self, name: str, settings: Prefer) -> None:
        super().__init__(name, settings, settings.objective)
        self._settings = settings
        self.plays = settings.store is None

    def new_source(self, context: Context) -> Source:
        if self._settings.store is not None:
            return Stored(self._settings.store, self._settings.store_stage)
        return self._settings.playing.source(context, self.name)

    async def next_step(self, context: Context, learner: Learner, source: Source) -> Step:
        started = time.perf_counter()
        groups = await source.take(self._settings.playing.prompts_per_step)
        if self._settings.store is None:
            context.rollouts.check_faults(groups)
        for add in self._settings.feedback:
            groups = await add(groups)
        sampled_s = time.perf_counter()
        metrics = await self._learn(context, learner, groups)
        await learner.publish()
        metrics = {
            **rollout_metrics(groups),
            **metrics,
            "preference/pairs": float(sum(len(group.preferences) for group in groups)),
            "time/sample_s": sampled_s - started,
            "time/learn_s": time.perf_counter() - sampled_s,
        }
        return Step(self.step + 1, self._settings.steps, metrics, [] if self._settings.store else groups)

    async def _learn(
        self, context: Context, learner: Learner, groups: Sequence[TrajectoryGroup]
    ) -> Mapping[str, float]:
        rows = pairs(context.rows(groups), groups)
        if not rows:
            logger.warning("step %d: no episode was preferred over another, so nothing was learnt", self.step + 1)
            return {}
        return await learner.update(await self.filled(learner, rows), self._objective)
