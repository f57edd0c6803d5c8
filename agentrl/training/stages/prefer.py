"""The stage `prefer`: preference optimisation on pairs of episodes of one task."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from agentrl.config import Count, OneOf, Whole
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.episode_columns import pairs
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective
from agentrl.learning.objectives.preference import DPO
from agentrl.rollout.feedback.base import FEEDBACKS, Feedback, stages_of
from agentrl.rollout.feedback.rewarded import PreferRewarded
from agentrl.rollout.sources.base import Source
from agentrl.rollout.sources.preference_file import check_preferences, preferences
from agentrl.rollout.sources.recorded import Recorded
from agentrl.rollout.sources.stored import Stored
from agentrl.training.stages.base import Context, Stage, StageSettings, Step
from agentrl.training.stages.canary import Canary
from agentrl.training.stages.group_stage import GroupStage
from agentrl.training.stages.playing import Playing
from agentrl.trajectory import TrajectoryGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prefer(StageSettings):
    """Preference optimisation (DPO).

    Attributes:
        steps: updates of the policy.
        max_sampled_tokens: end the stage after the step in which its episodes together have this number of sampled
            tokens; None sets no limit. The learning-rate schedule counts steps.
        playing: which episodes are played, and how many.
        data: recorded episodes that are compared, so that nothing is played; those that began alike are a group.
        pairs: a file of preferences in TRL's form (chosen and rejected) that are learnt, so that nothing is played.
        feedback: says which episode of a group is preferred; applied in order.
        objective: the loss over pairs.
        apart: train a copy of the model, so that the policy stays as it is; the run keeps the copy as the reward model
            of this stage, which the feedback `reward_model` of a later stage names. For a loss of reward models alone.
        canary: labelled questions on which the model's own confidence must choose right answers, or the stage is
            refused or ends; None asks none.
        checkpoint_every: steps between checkpoints.
        learner: optimizer and schedule.
    """

    steps: Whole = 20
    max_sampled_tokens: Count | None = None
    playing: Playing = Playing()
    data: tuple[Recorded, ...] = ()
    pairs: str | None = None
    feedback: tuple[Annotated[Feedback, OneOf(FEEDBACKS)], ...] = (PreferRewarded(),)
    objective: Annotated[Objective, OneOf(OBJECTIVES)] = DPO()
    apart: bool = False
    canary: Canary | None = None
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
        if self.apart and "values" not in self.objective.needs:
            raise ConfigError(
                f"stages.{name}.apart: {OBJECTIVES.name_of(type(self.objective))} trains a policy, and a copy of it is "
                'for a reward model alone: set objective = "bradley_terry", or leave out apart'
            )
        if self.data and self.pairs is not None:
            raise ConfigError(f"stages.{name} has data and pairs: give one of them, or a stage for each")
        for number, add in enumerate(self.feedback):
            add.check(f"stages.{name}.feedback[{number}]")
        for number, recorded in enumerate(self.data):
            recorded.check(f"stages.{name}.data[{number}]")
        if self.canary is not None:
            self.canary.check(f"stages.{name}.canary")
        if self.pairs is not None:
            check_preferences(self.pairs, f"stages.{name}.pairs")
        if not self.plays:
            if self.max_sampled_tokens is not None:
                raise ConfigError(
                    f"stages.{name}.max_sampled_tokens: the stage samples nothing, its pairs are recorded; leave it out"
                )
            return
        self.playing.check(f"stages.{name}.playing", probe, splits["train"])
        if self.playing.group_size < 2:
            raise ConfigError(
                f"stages.{name}.playing.group_size = 1: a pair needs two episodes of a task; use 2 or more"
            )

    @property
    def plays(self) -> bool:
        """Whether episodes are played for the stage."""
        return not self.data and self.pairs is None

    def check_several(self, name: str) -> None:
        self.playing.check_several(f"stages.{name}.playing")

    @property
    def trains_reward_model(self) -> bool:
        return self.apart

    @property
    def reward_models(self) -> Sequence[str]:
        return stages_of(self.feedback)

    @property
    def environments(self) -> Sequence[str]:
        return self.playing.others if self.plays else ()


class _PreferStage(GroupStage):
    def __init__(self, name: str, settings: Prefer) -> None:
        super().__init__(name, settings, settings.objective, apart=settings.apart)
        self._settings = settings
        self.reads_signals = settings.canary is not None or any(add.reads_signals for add in settings.feedback)
        self._is_reward_model = "values" in settings.objective.needs
        # The success of a reward model's own answers says nothing about its scores, so it chooses no weights.
        self.plays = settings.plays and not self._is_reward_model

    def new_source(self, context: Context) -> Source:
        if self._settings.pairs is not None:
            return preferences(self._settings.pairs, seed=context.seed)
        if self._settings.data:
            return Stored(self._settings.data)
        return self._settings.playing.source(context, self.name)

    async def next_step(self, context: Context, learner: Learner, source: Source) -> Step:
        started = time.perf_counter()
        played = groups = await source.take(self._settings.playing.prompts_per_step)
        if self._settings.plays:
            context.rollouts.check_faults(played)
        for add in self._feedback:
            groups = await add(groups)
        metrics = await self.learnt(context, learner, played, self._learn(context, learner, groups), started)
        return Step(self.step + 1, self._settings.steps, metrics, played if self._settings.plays else [])

    def summary(self) -> dict[str, Any]:
        """The head of a reward model that is the run's model: the run writes it next to the model's weights."""
        if self._learner is None or not self._is_reward_model or self._apart:
            return super().summary()
        return {**super().summary(), "value_head": self._learner.models.value_head_numbers()}

    async def _learn(
        self, context: Context, learner: Learner, groups: Sequence[TrajectoryGroup]
    ) -> Mapping[str, float]:
        rows = pairs(context.rows(compared := [_compared(group) for group in groups]), compared)
        if not rows:
            logger.warning("step %d: no episode was preferred over another, so nothing was learnt", self.step + 1)
            return {"preference/pairs": 0.0}
        metrics = await learner.update(await self.filled(learner, rows), self._objective)
        return {**metrics, "preference/pairs": float(len({row.unit for row in rows}))}


def _compared(group: TrajectoryGroup) -> TrajectoryGroup:
    """The group without the episodes that no preference names, which would be rendered for nothing."""
    kept = sorted({number for pair in group.preferences for number in pair})
    place = {number: index for index, number in enumerate(kept)}
    found = tuple((place[better], place[worse]) for better, worse in group.preferences)
    return replace(group, trajectories=[group.trajectories[number] for number in kept], preferences=found)
