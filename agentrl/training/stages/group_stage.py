"""What stages that learn from groups of a source share: the loop, the place in the source, and the resuming of both."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Objective
from agentrl.learning.rows import Row
from agentrl.rollout.feedback.base import Feedback, metrics_of
from agentrl.rollout.sources.base import Source
from agentrl.training.stages.base import Context, Stage, Step
from agentrl.training.stages.canary import Canary, CanaryWatch
from agentrl.training.stages.health import lags
from agentrl.training.stages.playing import rollout_metrics, sampled_tokens
from agentrl.trajectory import TrajectoryGroup


class GroupSettings(Protocol):
    """The settings that the loop reads."""

    @property
    def steps(self) -> int: ...
    @property
    def max_sampled_tokens(self) -> int | None: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def learner(self) -> LearnerSettings: ...
    @property
    def canary(self) -> Canary | None: ...
    @property
    def feedback(self) -> Sequence[Feedback]: ...


class GroupStage(Stage):
    """A stage that takes groups from a source and updates the model from them, a step at a time.

    Args:
        name: from the TOML.
        settings: of the stage.
        objective: the loss of every update.
        apart: train a copy of the model, as a reward model.
    """

    plays = True

    def __init__(self, name: str, settings: GroupSettings, objective: Objective, *, apart: bool = False) -> None:
        super().__init__(name, settings.checkpoint_every)
        self._apart, self._feedback = apart, list(settings.feedback)
        self.total, self._learner_settings, self._objective = settings.steps, settings.learner, objective
        self._max_sampled_tokens, self._sampled_tokens = settings.max_sampled_tokens, 0
        self._canary = None if settings.canary is None else CanaryWatch(settings.canary)
        self._source: Source | None = None
        self._learner: Learner | None = None
        self._place: dict[str, Any] | None = None

    @abstractmethod
    def new_source(self, context: Context) -> Source:
        """The source of the stage's groups, at its beginning."""

    @abstractmethod
    async def next_step(self, context: Context, learner: Learner, source: Source) -> Step:
        """Take groups, learn from them, and publish the weights; the step's number is `self.step + 1`."""

    async def steps(self, context: Context) -> AsyncIterator[Step]:
        self._feedback = [add.in_run(context.reward_model) for add in self._feedback]
        self._source = self.new_source(context)
        if self._place is not None:
            self._source.load_state_dict(self._place)
        learner = self._learner = await context.learner(
            self._learner_settings,
            self._objective,
            temperature=context.sampling.temperature,
            total_steps=max(1, self.total),
            apart=self._apart,
        )
        try:
            await self._watch(context, 0)
            while self.step < self.total and not self._is_over:
                learner.num_steps = self.step  # the schedule counts steps that taught nothing too
                step = await self.next_step(context, learner, self._source)
                self.step = step.number
                self._sampled_tokens += sampled_tokens(step.groups)
                step = replace(step, metrics={**step.metrics, **await self._watch(context, step.number)})
                yield replace(step, total=step.number) if self._is_over else step
        finally:
            await self._source.aclose()

    async def _watch(self, context: Context, number: int) -> dict[str, float]:
        """Measure the canary where that is due. Returns: a metric of it."""
        if self._canary is None or not self._canary.is_due(number):
            return {}
        return {"canary/accuracy": await self._canary.measure(context, self.name, number)}

    @property
    def _is_over(self) -> bool:
        return self._is_spent or (self._canary is not None and self._canary.ended != "")

    @property
    def _is_spent(self) -> bool:
        return self._max_sampled_tokens is not None and self._sampled_tokens >= self._max_sampled_tokens

    async def learnt(
        self,
        context: Context,
        learner: Learner,
        played: Sequence[TrajectoryGroup],
        learning: Awaitable[Mapping[str, float]],
        started: float,
    ) -> dict[str, float]:
        """Learn from a step's groups and publish the weights.

        Args:
            played: the groups whose episodes are described.
            learning: the update; it begins here.
            started: `time.perf_counter()` at the beginning of the step.
        Returns: metrics of the episodes and of the update, and the time that each took.
        """
        sampled = time.perf_counter()
        context.before_update()
        metrics = await learning
        published = await learner.publish()
        return {
            **rollout_metrics(played, context.environments),
            **(lags(played, published - 1) if published else {}),
            **metrics,
            **metrics_of(self._feedback),
            "time/sample_s": sampled - started,
            "time/learn_s": time.perf_counter() - sampled,
        }

    async def filled(self, learner: Learner, rows: Sequence[Row]) -> list[Row]:
        """The rows with every column that the objective reads and that they lack.

        Args: rows: at least one.
        """
        filled = list(rows)
        for column in self._objective.columns:
            if column not in filled[0].columns:
                filled = await learner.fill(filled, column)
        return filled

    def state_dict(self) -> dict[str, Any]:
        place = self._place if self._source is None else self._source.state_dict()
        canary = None if self._canary is None else self._canary.state_dict()
        return {**super().state_dict(), "source": place, "sampled_tokens": self._sampled_tokens, "canary": canary}

    def summary(self) -> dict[str, Any]:
        if self._canary is None:
            return super().summary()
        return {**super().summary(), "canary": self._canary.summary()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._place, self._sampled_tokens = state["source"], state["sampled_tokens"]
        if self._canary is not None:
            self._canary.load_state_dict(state["canary"])
