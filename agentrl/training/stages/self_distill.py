"""The stage `self_distill`: the model that has seen a good answer to a question teaches the model that has not."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from msgspec import structs

from agentrl.config import Count, OneOf, Whole
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.columns import with_sampled_as_old
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.policy_gradient import PolicyGradient
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Ints, Row, with_coefficients
from agentrl.messages import Action
from agentrl.rollout.feedback.base import FEEDBACKS, Feedback, stages_of
from agentrl.rollout.sources.base import Source
from agentrl.training.stages.base import Context, Stage, StageSettings, Step
from agentrl.training.stages.canary import Canary
from agentrl.training.stages.group_stage import GroupStage
from agentrl.training.stages.playing import Playing
from agentrl.trajectory import Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)
PROMPT = "{question}\n\nA correct answer to this question:\n\n{answer}\n\nNow answer the question yourself."
"""What the teacher reads in place of the last message."""


@dataclass(frozen=True)
class SelfDistill(StageSettings):
    """Self-distillation: each sampled token's advantage is the teacher's log-probability of it minus the model's own.

    The teacher is the model as it is, with the best episode of the group shown in its prompt. The shown episode does
    not train, and neither does a group without one that earned enough. For environments of one turn.

    Source: SDPO, arXiv:2601.20802, whose loss is the KL to the teacher over the vocabulary; here it is estimated on the
    sampled tokens. With feedback `most_confident` no label is read.

    Attributes:
        steps: updates of the policy.
        max_sampled_tokens: end the stage after the step in which its episodes together have this number of sampled
            tokens; None sets no limit. The learning-rate schedule counts steps.
        playing: which episodes, and how many.
        feedback: applied to each step's groups in order, before the best episode is chosen by its reward.
        least: the least reward of an episode that is shown.
        canary: labelled questions on which the model's own confidence must choose right answers, or the stage is
            refused or ends; None asks none.
        checkpoint_every: steps between checkpoints.
        learner: optimizer and schedule.
    """

    steps: Whole = 40
    max_sampled_tokens: Count | None = None
    playing: Playing = Playing()
    feedback: tuple[Annotated[Feedback, OneOf(FEEDBACKS)], ...] = ()
    least: float = 1.0
    canary: Canary | None = None
    checkpoint_every: Count = 10
    learner: LearnerSettings = LearnerSettings(
        lr=4e-4, schedule=Schedule("linear", warmup_steps=5, final=0.1), max_mismatch=0.1
    )

    def stage(self, name: str) -> Stage:
        return _SelfDistillStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        self.playing.check(f"stages.{name}.playing", probe, splits["train"])
        for number, add in enumerate(self.feedback):
            add.check(f"stages.{name}.feedback[{number}]")
        if self.canary is not None:
            self.canary.check(f"stages.{name}.canary")
        if self.playing.group_size < 2 or self.playing.branches:
            raise ConfigError(
                f"stages.{name}.playing: one sampled episode of a task is shown and the others learn: set group_size "
                "to 2 or more, and leave out branches"
            )

    def check_several(self, name: str) -> None:
        self.playing.check_several(f"stages.{name}.playing")

    @property
    def reward_models(self) -> Sequence[str]:
        return stages_of(self.feedback)

    @property
    def environments(self) -> Sequence[str]:
        return self.playing.others


class _SelfDistillStage(GroupStage):
    def __init__(self, name: str, settings: SelfDistill) -> None:
        super().__init__(name, settings, PolicyGradient())
        self._settings = settings
        self.reads_signals = settings.canary is not None or any(add.reads_signals for add in settings.feedback)

    def new_source(self, context: Context) -> Source:
        if context.max_turns > 1:
            raise ConfigError(
                f"stages.{self.name}: self_distill is for environments of one turn, and an episode of this one has "
                f"up to {context.max_turns}: use a stage of kind reinforce or prefer"
            )
        return self._settings.playing.source(context, self.name)

    async def next_step(self, context: Context, learner: Learner, source: Source) -> Step:
        started = time.perf_counter()
        played = groups = await source.take(self._settings.playing.prompts_per_step)
        context.rollouts.check_faults(played)
        for add in self._feedback:
            groups = await add(groups)
        metrics = await self.learnt(context, learner, played, self._learn(context, learner, groups), started)
        return Step(self.step + 1, self._settings.steps, metrics, played)

    async def _learn(
        self, context: Context, learner: Learner, groups: Sequence[TrajectoryGroup]
    ) -> Mapping[str, float]:
        lessons = [lesson for group in groups if (lesson := split(group, self._settings.least))]
        rows = context.rows([pupils for _, pupils in lessons])
        if not rows:
            logger.warning("step %d: no group has an episode to show and one to teach", self.step + 1)
            return {"rollout/groups_trained": 0.0}
        prompts = [
            prompt for shown, pupils in lessons for prompt in [_prompt(context, shown)] * len(pupils.trajectories)
        ]
        taught = await learner.fill([_behind(prompts[row.trajectory], row) for row in rows], "old_logprobs")
        rows = [_with_advantages(*pair) for pair in zip(rows, taught, strict=True)]
        distance = -float(np.concatenate([row.column("advantages")[row.mask] for row in rows]).mean())
        rows = with_sampled_as_old(with_coefficients(rows, "token"))
        metrics = await learner.update(rows, self._objective)
        return {**metrics, "distill/teacher_kl": distance, "rollout/groups_trained": float(len(lessons))}


def split(group: TrajectoryGroup, least: float) -> tuple[Trajectory, TrajectoryGroup] | None:
    """The best episode of a group, and the group of the others that train; None if there is no lesson in it.

    Args: least: the least reward of the best episode; of equal ones the first is taken.
    """
    known = [t for t in group.trajectories if t.trains and t.turns]
    best = max(known, key=lambda t: t.reward, default=None)
    if best is None or best.reward < least or len(known) < 2:
        return None
    return best, replace(group, trajectories=[t for t in known if t is not best], preferences=(), margins=())


def told(shown: Trajectory) -> Trajectory:
    """An episode as a demonstration whose question holds its own answer."""
    turn = shown.turns[0]
    *before, question = turn.observation
    text = PROMPT.format(question=question.content, answer=turn.action.text)
    observation = (*before, structs.replace(question, content=text))
    turns = [structs.replace(turn, observation=observation, action=Action(turn.action.text))]
    return replace(shown, turns=turns, labels=replace(shown.labels, mode="demonstration"))


def _prompt(context: Context, shown: Trajectory) -> Ints:
    """(P,) token ids of what the teacher reads before it answers."""
    (row,) = context.rows([TrajectoryGroup("shown", [told(shown)])])
    return row.ids[: int(np.argmax(row.mask))]


def _behind(prompt: Ints, row: Row) -> Row:
    """The sampled tokens of a row behind another prompt."""
    sampled = row.ids[int(np.argmax(row.mask)) :]
    mask = np.concatenate([np.zeros(len(prompt), bool), np.ones(len(sampled), bool)])
    return Row.of(np.concatenate([prompt, sampled]), mask, trajectory=row.trajectory)


def _with_advantages(row: Row, teacher: Row) -> Row:
    """The row with each sampled token's log-probability under the teacher, minus that under the model."""
    found = np.zeros(len(row), np.float32)
    found[row.mask] = teacher.column("old_logprobs")[teacher.mask] - row.column("sampled_logprobs")[row.mask]
    return row.with_columns(advantages=found)
