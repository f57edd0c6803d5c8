"""The stage `reinforce`: policy optimisation from reward. GRPO and PPO differ in its credit and objective alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from agentrl.config import Count, Fraction, NotNegative, OneOf, Share, Whole
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.columns import with_sampled_as_old
from agentrl.learning.credit.base import CREDITS, Advantages, Credit, most_spread, only, pass_rate, without_faults
from agentrl.learning.credit.by_environment import by_environment
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.episode_columns import (
    groups_taught,
    note_trainer_logprobs,
    per_trajectory,
    with_advantages,
    with_turn_rewards,
)
from agentrl.learning.importance import IMPORTANCES, Importance, NoCorrection, with_importance
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective, weighted
from agentrl.learning.objectives.expert import Expert
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus, ReferenceDistance, ReferenceKL
from agentrl.learning.objectives.value import Value
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Aggregation, Array, Row, Weight, with_coefficients
from agentrl.learning.shaping.base import SHAPINGS, Shaping
from agentrl.rollout.feedback.base import FEEDBACKS, Feedback, stages_of
from agentrl.rollout.sources.base import Source
from agentrl.training.stages.base import Context, Stage, StageSettings, Step
from agentrl.training.stages.canary import Canary
from agentrl.training.stages.expert import ExpertTerm, with_expert, without_expert
from agentrl.training.stages.group_stage import GroupStage
from agentrl.training.stages.playing import Playing
from agentrl.trajectory import TrajectoryGroup

logger = logging.getLogger(__name__)
_FORKS = {
    True: 'credit {!r} estimates values from continuations: set forks = {{}}, or algorithm = "forked" without credit',
    False: 'credit {!r} would take continuations for episodes of their own: leave out forks, or set credit = "forked"',
}


@dataclass(frozen=True)
class Reinforce(StageSettings):
    """Policy optimisation from environment reward.

    Attributes:
        steps: updates of the policy.
        max_sampled_tokens: end the stage after the step in which its episodes together have this number of sampled
            tokens; None sets no limit. The learning-rate schedule counts steps.
        playing: which episodes, and how many.
        credit: the advantage estimator.
        objective: the policy loss.
        kl_coef: weight of the KL penalty to the model at the start of the stage; 0 keeps no reference model.
        kl: estimator of the KL in the loss, and its gradient.
        kl_in: `loss`, or `reward`: then k1 of a turn's tokens, times `kl_coef`, is subtracted from the turn's reward
            before advantages are estimated; `kl` is not used.
        entropy_coef: weight of the entropy bonus.
        value_coef: weight of the value loss; used only by credit that reads predicted returns.
        value: the value loss.
        expert: cross-entropy on demonstrations of the step's tasks, added to the policy loss; None adds none.
        aggregation: what a token's coefficient is: `token`, `sequence` or `constant`.
        weight: what a token's coefficient is divided by: the sampled tokens (or episodes) of `all` groups of the step,
            or of the `differing` ones, which have an advantage other than 0. With `differing` a step in which one
            group of 16 differs moves the model 16 times as far.
        dynamic_sampling: sample further groups until `prompts_per_step` of them teach (DAPO); the step consists of
            these, and of groups that do not teach where too few do.
        dynamic_sampling_max: most groups of a step under dynamic sampling, in multiples of `prompts_per_step`.
        pass_rate_band: the lowest and highest share of solved episodes of a group that trains: tasks that are too hard
            or too easy for the model as it is are left out, under dynamic sampling others are played instead (online
            difficulty filtering, arXiv:2504.03380).
        keep_groups: share of a step's groups that train: those whose returns have the largest standard deviation
            (StarPO-S); the others are left out of the weights too.
        truncated: what becomes of episodes that were cut off at a limit: they `train`; their tokens are masked
            (`mask`), while their rewards count in the baselines; or they are left out of both (`leave_out`).
        shaping: changes of the reward for training alone, applied in order.
        recompute_old_logprobs: take the ratio's denominator from a forward pass before the update, not from the
            sampler; None does so if `top_p` is below 1, where the sampler reports the truncated distribution.
        importance: correction for probabilities that differ between sampler and trainer; it recomputes the logprobs.
        record_ratios: write to the record of each turn how likely its tokens were for the model that began to learn
            from it (`Turn.trainer_logprobs`), so that `agentrl view` shows ratios. Costs a forward pass a step where
            `recompute_old_logprobs` is off.
        feedback: applied to each step's groups in order.
        canary: labelled questions on which the model's own confidence must choose right answers, or the stage is
            refused or ends; None asks none.
        checkpoint_every: steps between checkpoints.
        learner: optimizer and schedule.
    """

    steps: Whole = 80
    max_sampled_tokens: Count | None = None
    playing: Playing = Playing()
    credit: Annotated[Credit, OneOf(CREDITS)] = GRPO()
    objective: Annotated[Objective, OneOf(OBJECTIVES)] = PPOClip()
    kl_coef: NotNegative = 0.0
    kl: ReferenceKL = ReferenceKL()
    kl_in: Literal["loss", "reward"] = "loss"
    entropy_coef: NotNegative = 0.0
    value_coef: NotNegative = 0.5
    value: Value = Value()
    expert: ExpertTerm | None = None
    aggregation: Aggregation = "token"
    weight: Weight = "all"
    dynamic_sampling: bool = False
    dynamic_sampling_max: Count = 3
    pass_rate_band: tuple[Fraction, Fraction] = (0.0, 1.0)
    keep_groups: Share = 1.0
    truncated: Literal["train", "mask", "leave_out"] = "train"
    shaping: tuple[Annotated[Shaping, OneOf(SHAPINGS)], ...] = ()
    recompute_old_logprobs: bool | None = None
    importance: Annotated[Importance, OneOf(IMPORTANCES)] = NoCorrection()
    record_ratios: bool = False
    feedback: tuple[Annotated[Feedback, OneOf(FEEDBACKS)], ...] = ()
    canary: Canary | None = None
    checkpoint_every: Count = 10
    learner: LearnerSettings = LearnerSettings(
        lr=4e-4, schedule=Schedule("linear", warmup_steps=5, final=0.1), max_mismatch=0.1
    )

    def __post_init__(self) -> None:
        if self.pass_rate_band[0] > self.pass_rate_band[1]:
            raise ValueError(f"pass_rate_band must be (lowest, highest), got {self.pass_rate_band}")
        if self.importance.corrects and self.recompute_old_logprobs is False:
            raise ValueError(
                f"importance {IMPORTANCES.name_of(type(self.importance))!r} is a ratio of the trainer's logprobs to "
                "the sampler's: set recompute_old_logprobs = true, or leave it out"
            )

    def stage(self, name: str) -> Stage:
        return _ReinforceStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        key = f"stages.{name}"
        self.playing.check(f"{key}.playing", probe, splits["train"])
        for number, add in enumerate(self.feedback):
            add.check(f"{key}.feedback[{number}]")
        if self.canary is not None:
            self.canary.check(f"{key}.canary")
        if self.expert is not None:
            self.expert.check(f"{key}.expert", probe, self.learner)
        if self.playing.branches:
            raise ConfigError(
                f"{key}.playing.branches: episodes that begin with a chosen token and go on greedily are no samples of "
                "the model, which policy optimisation needs; leave it out, or use a stage of kind prefer"
            )
        if self.playing.group_size == 1 and self.credit.compares:
            raise ConfigError(
                f"{key}.playing.group_size = 1: {CREDITS.name_of(type(self.credit))} compares the episodes of a group "
                "with each other, so a group of one teaches nothing; use 2 or more (8 is the tested value), or "
                f"{key}.credit = reinforce_plus_plus"
            )
        if self.credit.reads_forks != (self.playing.forks is not None):
            raise ConfigError(
                f"{key}.playing.forks: " + _FORKS[self.credit.reads_forks].format(CREDITS.name_of(type(self.credit)))
            )

    def check_several(self, name: str) -> None:
        self.playing.check_several(f"stages.{name}.playing")

    @property
    def environments(self) -> Sequence[str]:
        return self.playing.others

    @property
    def reward_models(self) -> Sequence[str]:
        return stages_of(self.feedback)

    @property
    def total(self) -> Objective:
        """The policy loss with the terms that have a weight."""
        value = self.value_coef if self.credit.needs_values else 0.0
        in_reward = self.kl_in == "reward"
        return weighted(
            [
                (1.0, self.objective),
                (self.entropy_coef, EntropyBonus()),
                (0.0 if in_reward else self.kl_coef, self.kl),
                (float(in_reward and self.kl_coef > 0), ReferenceDistance()),
                (value, self.value),
                (self.expert.weight if self.expert else 0.0, Expert()),
            ]
        )


class _ReinforceStage(GroupStage):
    def __init__(self, name: str, settings: Reinforce) -> None:
        super().__init__(name, settings, settings.total)
        self._settings = settings
        self.reads_signals = settings.canary is not None or any(add.reads_signals for add in settings.feedback)

    def new_source(self, context: Context) -> Source:
        return self._settings.playing.source(context, self.name, greedy=self._settings.credit.needs_greedy)

    async def next_step(self, context: Context, learner: Learner, source: Source) -> Step:
        started = time.perf_counter()
        groups, sampled = await self._sample(source)
        context.rollouts.check_faults(sampled)
        learning = self._learn(context, learner, groups, sampled)
        metrics = await self.learnt(context, learner, sampled, learning, started)
        return Step(self.step + 1, self._settings.steps, metrics, sampled)

    async def _sample(self, source: Source) -> tuple[list[TrajectoryGroup], list[TrajectoryGroup]]:
        """Groups of the update, without faults, and all groups that were sampled."""
        settings = self._settings
        wanted = settings.playing.prompts_per_step
        most = wanted * (settings.dynamic_sampling_max if settings.dynamic_sampling else 1)
        kept: list[TrajectoryGroup] = []
        others: list[TrajectoryGroup] = []
        sampled: list[TrajectoryGroup] = []
        while len(kept) < wanted and len(sampled) < most:
            new = await source.take(min(wanted - len(kept), most - len(sampled)))
            sampled.extend(new)
            for add in self._feedback:
                new = await add(new)
            for group in self._shaped(new):
                teaches = not settings.dynamic_sampling or settings.credit.teaches(group)
                (kept if teaches else others).append(group)
        groups = [*kept, *others[: wanted - len(kept)]]
        return most_spread(groups, settings.keep_groups) if settings.keep_groups < 1 else groups, sampled

    def _shaped(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        """The groups as the estimator sees them: of the right difficulty, with shaped rewards, and without faults."""
        settings = self._settings
        low, high = settings.pass_rate_band
        shaped = [without_faults(group) for group in groups if low <= pass_rate(group) <= high]
        for shape in settings.shaping:
            shaped = shape(shaped)
        if settings.truncated == "leave_out":
            shaped = [only(group, lambda t: t.status != "truncated") for group in shaped]
        return [group for group in shaped if any(t.trains for t in group.trajectories)]

    async def _learn(
        self,
        context: Context,
        learner: Learner,
        groups: Sequence[TrajectoryGroup],
        sampled: Sequence[TrajectoryGroup],
    ) -> Mapping[str, float]:
        """One update from the groups; no update if no row can change the model.

        Args: sampled: all episodes of the step, which are recorded after it.
        Returns: its metrics.
        """
        rows = context.rows(groups)
        if not rows:
            logger.warning("step %d: no episode has a sampled token, so there is nothing to learn from", self.step + 1)
            return {"rollout/groups_trained": 0.0}
        rows, found = await self._with_advantages(learner, rows, groups)
        if self._settings.truncated == "mask":
            cut = _chosen([[t.status == "truncated" for t in group.trajectories] for group in groups])
            rows = [row for row in rows if row.trajectory not in cut]
        taught = groups_taught(found)
        metrics = {"rollout/groups_trained": float(sum(taught))}
        shown = await self._demonstrated(context, groups)
        if not rows or (not shown and all(self._objective.ignores(row) for row in rows)):
            logger.warning(
                "step %d: every advantage is 0 (under most estimators: within each group every episode earned the "
                "same), so there is nothing to learn from",
                self.step + 1,
            )
            return metrics
        flags = [[flag] * len(group.trajectories) for flag, group in zip(taught, groups, strict=True)]
        rows = await self._weighed(context, learner, rows, _chosen(flags))
        if self._settings.record_ratios:
            learnt = [row for row in rows if not self._objective.ignores(row)]
            if not self._recomputes_old(context):
                learnt = await learner.fill(learnt, "old_logprobs")
            _record_ratios(learnt, groups, sampled)
        rows = await with_expert(rows, shown, learner)
        return {**await learner.update(rows, self._objective), **metrics}

    async def _demonstrated(self, context: Context, groups: Sequence[TrajectoryGroup]) -> list[Row]:
        """The rows of the expert term."""
        expert = self._settings.expert
        return [] if expert is None else context.rows(await expert.played(context, self.name, groups))

    async def _with_advantages(
        self, learner: Learner, rows: list[Row], groups: Sequence[TrajectoryGroup]
    ) -> tuple[list[Row], Advantages]:
        settings, credit, values = self._settings, self._settings.credit, None
        if settings.kl_in == "reward" and settings.kl_coef:
            rows = await learner.fill(rows, "reference_logprobs")
            groups = with_turn_rewards(rows, groups, lambda row: -settings.kl_coef * _kl(row))
        if credit.needs_values:
            rows = await learner.fill(rows, "values")
            values = per_trajectory(rows, groups, "values", credit)
        found = by_environment(credit, groups, values)
        return with_advantages(rows, groups, found, credit), found

    async def _weighed(self, context: Context, learner: Learner, rows: list[Row], taught: Collection[int]) -> list[Row]:
        """Rows with every column that the objective reads.

        Args: taught: numbers of the trajectories in groups with an advantage other than 0.
        """
        settings = self._settings
        max_tokens = context.sampling.max_tokens * context.max_turns
        counted = taught if settings.weight == "differing" else None
        rows = with_coefficients(rows, settings.aggregation, max_tokens=max_tokens, counted=counted)
        rows = without_expert(rows) if settings.expert else rows
        if self._recomputes_old(context):
            rows = with_importance(await self._filled(learner, rows, "old_logprobs"), settings.importance)
        else:
            rows = with_sampled_as_old(rows)
        for column in self._objective.columns:
            if column not in rows[0].columns:
                rows = await self._filled(learner, rows, column)
        return rows

    def _recomputes_old(self, context: Context) -> bool:
        chosen = self._settings.recompute_old_logprobs
        return chosen if chosen is not None else context.sampling.top_p < 1 or self._settings.importance.corrects

    async def _filled(self, learner: Learner, rows: Sequence[Row], column: str) -> list[Row]:
        """The rows with a column. Rows that the objective ignores go through no model and get the sampler's numbers."""
        ignored = [self._objective.ignores(row) for row in rows]
        found = iter(await learner.fill([row for row, flag in zip(rows, ignored, strict=True) if not flag], column))
        return [
            row.with_columns(**{column: row.column("sampled_logprobs")}) if flag else next(found)
            for row, flag in zip(rows, ignored, strict=True)
        ]


def _record_ratios(rows: Sequence[Row], groups: Sequence[TrajectoryGroup], sampled: Sequence[TrajectoryGroup]) -> None:
    """Write the trainer's log-probabilities to the turns of the episodes that are recorded.

    Args:
        rows: of the groups, with `old_logprobs` of the trainer.
        sampled: what is recorded; shaped groups hold other turns.
    """
    recorded = {t.episode_id: t for group in sampled for t in group.trajectories}
    names = enumerate(t.episode_id for group in groups for t in group.trajectories)
    note_trainer_logprobs(rows, {number: recorded[name] for number, name in names if name in recorded})


def _kl(row: Row) -> Array:
    """(T,) k1 of the policy that sampled against the reference."""
    k1: Array = row.column("sampled_logprobs") - row.column("reference_logprobs")
    return k1


def _chosen(flags: Sequence[Sequence[bool]]) -> set[int]:
    """The numbers of the trajectories with a flag, counted through the step.

    Args: flags: per group, one for each trajectory.
    """
    return {number for number, flag in enumerate(flag for own in flags for flag in own) if flag}
