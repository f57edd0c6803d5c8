"""The stage `reinforce`: policy optimisation from reward. GRPO and PPO differ in its credit and objective alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from agentrl.config import Count, NotNegative, OneOf, Whole
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.columns import Importance, with_importance, with_sampled_as_old
from agentrl.learning.credit.base import CREDITS, Credit, differs, without_faults
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.episode_columns import per_trajectory, with_advantages
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective, weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus, ReferenceKL
from agentrl.learning.objectives.value import Value
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Aggregation, Row, with_coefficients
from agentrl.rollout.feedback.base import FEEDBACKS, Feedback
from agentrl.rollout.sources.base import Source
from agentrl.training.stages.base import Context, Stage, StageSettings, Step
from agentrl.training.stages.group_stage import GroupStage
from agentrl.training.stages.playing import Playing, rollout_metrics
from agentrl.trajectory import TrajectoryGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reinforce(StageSettings):
    """Policy optimisation from environment reward.

    Attributes:
        steps: updates of the policy.
        playing: which episodes, and how many.
        credit: the advantage estimator.
        objective: the policy loss.
        kl_coef: weight of the KL penalty to the model at the start of the stage; 0 keeps no reference model.
        entropy_coef: weight of the entropy bonus.
        value_coef: weight of the value loss; used only by credit that reads predicted returns.
        aggregation: what a token's coefficient is: `token`, `sequence` or `constant`.
        skip_zero_advantage: leave out groups whose rewards are all equal.
        dynamic_sampling: sample further groups until `prompts_per_step` of them differ in reward (DAPO).
        dynamic_sampling_max: most groups of a step under dynamic sampling, in multiples of `prompts_per_step`.
        recompute_old_logprobs: take the ratio's denominator from a forward pass before the update, not from the
            sampler; None does so if `top_p` is below 1, where the sampler reports the truncated distribution.
        importance: correction for probabilities that differ between sampler and trainer: `none`, `tis` or `icepop`; the
            last two need recomputed logprobs.
        feedback: applied to each step's groups in order.
        checkpoint_every: steps between checkpoints.
        learner: optimizer and schedule.
    """

    steps: Whole = 40
    playing: Playing = Playing()
    credit: Annotated[Credit, OneOf(CREDITS)] = GRPO()
    objective: Annotated[Objective, OneOf(OBJECTIVES)] = PPOClip()
    kl_coef: NotNegative = 0.0
    entropy_coef: NotNegative = 0.0
    value_coef: NotNegative = 0.5
    aggregation: Aggregation = "token"
    skip_zero_advantage: bool = True
    dynamic_sampling: bool = False
    dynamic_sampling_max: Count = 3
    recompute_old_logprobs: bool | None = None
    importance: Importance = "none"
    feedback: tuple[Annotated[Feedback, OneOf(FEEDBACKS)], ...] = ()
    checkpoint_every: Count = 10
    learner: LearnerSettings = LearnerSettings(lr=7e-4, schedule=Schedule("linear", final=0.1), max_mismatch=0.1)

    def __post_init__(self) -> None:
        if self.importance != "none" and self.recompute_old_logprobs is False:
            raise ValueError(f"importance {self.importance!r} needs recompute_old_logprobs = true to have a ratio")

    def stage(self, name: str) -> Stage:
        return _ReinforceStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        key = f"stages.{name}"
        self.playing.check(f"{key}.playing", probe, splits["train"])
        if self.playing.group_size > 1:
            return
        if self.credit.compares:
            raise ConfigError(
                f"{key}.playing.group_size = 1: {CREDITS.name_of(type(self.credit))} compares the episodes of a group "
                "with each other, so a group of one teaches nothing; use 2 or more (8 is the tested value), or "
                f"{key}.credit = reinforce_plus_plus"
            )
        if self.skip_zero_advantage:
            raise ConfigError(
                f"{key}.playing.group_size = 1: a group of one never differs in reward, so every group would be "
                f"skipped; set {key}.skip_zero_advantage = false as well"
            )

    @property
    def environments(self) -> Sequence[str]:
        return self.playing.others

    @property
    def total(self) -> Objective:
        """The policy loss with the terms that have a weight."""
        value = self.value_coef if self.credit.needs_values else 0.0
        return weighted(
            [
                (1.0, self.objective),
                (self.entropy_coef, EntropyBonus()),
                (self.kl_coef, ReferenceKL()),
                (value, Value()),
            ]
        )


class _ReinforceStage(GroupStage):
    def __init__(self, name: str, settings: Reinforce) -> None:
        super().__init__(name, settings, settings.total)
        self._settings = settings

    def new_source(self, context: Context) -> Source:
        return self._settings.playing.source(context, self.name, greedy=self._settings.credit.needs_greedy)

    async def next_step(self, context: Context, learner: Learner, source: Source) -> Step:
        started = time.perf_counter()
        groups, sampled = await self._sample(source)
        context.rollouts.check_faults(sampled)
        sampled_s = time.perf_counter()
        metrics = await self._learn(context, learner, groups)
        await learner.publish()
        metrics = {
            **rollout_metrics(sampled),
            **metrics,
            "rollout/groups_trained": float(len(groups)),
            "time/sample_s": sampled_s - started,
            "time/learn_s": time.perf_counter() - sampled_s,
        }
        return Step(self.step + 1, self._settings.steps, metrics, sampled)

    async def _sample(self, source: Source) -> tuple[list[TrajectoryGroup], list[TrajectoryGroup]]:
        """Groups that train, without faults, and all groups that were sampled."""
        settings = self._settings
        wanted = settings.playing.prompts_per_step
        most = wanted * (settings.dynamic_sampling_max if settings.dynamic_sampling else 1)
        kept: list[TrajectoryGroup] = []
        sampled: list[TrajectoryGroup] = []
        while len(kept) < wanted and len(sampled) < most:
            count = min(wanted - len(kept), most - len(sampled)) if sampled else wanted
            new = await source.take(count)
            for add in settings.feedback:
                new = await add(new)
            sampled.extend(new)
            healthy = [without_faults(group) for group in new]
            kept.extend(g for g in healthy if self._teaches(g))
            if not settings.dynamic_sampling:
                break
        return kept, sampled

    def _teaches(self, group: TrajectoryGroup) -> bool:
        some = any(t.trains for t in group.trajectories)
        return some and (differs(group) or not self._settings.skip_zero_advantage)

    async def _learn(
        self, context: Context, learner: Learner, groups: Sequence[TrajectoryGroup]
    ) -> Mapping[str, float]:
        """One update from the groups; no update if there are no groups. Returns: its metrics."""
        if not groups:
            logger.warning(
                "step %d: within each group every episode earned the same, so there is nothing to learn from it",
                self.step + 1,
            )
            return {}
        rows = context.rows(groups)
        if not rows:
            logger.warning("step %d: no episode has a sampled token, so there is nothing to learn from", self.step + 1)
            return {}
        return await learner.update(await self._rows(context, learner, rows, groups), self._objective)

    async def _rows(
        self, context: Context, learner: Learner, rows: list[Row], groups: Sequence[TrajectoryGroup]
    ) -> list[Row]:
        """Rows with every column that the objective reads."""
        settings, credit, values = self._settings, self._settings.credit, None
        max_tokens = context.sampling.max_tokens * context.max_turns
        rows = with_coefficients(rows, settings.aggregation, max_tokens=max_tokens)
        if credit.needs_values:
            rows = await learner.fill(rows, "values")
            values = per_trajectory(rows, groups, "values", credit)
        rows = with_advantages(rows, groups, credit(groups, values), credit)
        recompute = settings.recompute_old_logprobs
        if context.sampling.top_p < 1 if recompute is None else recompute:
            rows = with_importance(await learner.fill(rows, "old_logprobs"), settings.importance)
        else:
            rows = with_sampled_as_old(rows)
        return await self.filled(learner, rows)
