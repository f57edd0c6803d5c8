"""A gate for training on self-feedback: does the model's own confidence choose right answers on labelled questions?

Source: intrinsic rewards first rise and then fall, and how far depends on the model they begin with (arXiv:2603.08660).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentrl.bench.measures.confidence import MostConfident
from agentrl.config import Count, Fraction
from agentrl.errors import ConfigError, TrainingRefused
from agentrl.training.stages.base import Context
from agentrl.trajectory import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canary:
    """Best-of-k accuracy by confidence on labelled questions, before a stage and during it.

    Attributes:
        num_tasks: questions: the last ones of the train split.
        trials: samples of each question; the one with the most confident answer counts.
        threshold: the least accuracy with which the stage begins.
        refuse: `fail` ends the run with an error below the threshold; `skip` ends the stage alone.
        every: steps between two measurements during the stage.
        drop: the stage ends where the accuracy is lower than the best one by more than this. The last weights stay.
    """

    num_tasks: Count = 100
    trials: Count = 8
    threshold: Fraction = 0.6
    refuse: Literal["fail", "skip"] = "fail"
    every: Count = 5
    drop: Fraction = 0.05

    def check(self, key: str) -> None:
        """Raises: ConfigError if one sample of a question is all there is."""
        if self.trials < 2:
            raise ConfigError(f"{key}.trials = {self.trials}: choosing by confidence needs 2 samples or more of a task")


class CanaryWatch:
    """The measurements of one stage.

    Args:
        settings: when to measure, and what ends the stage.
        values: (step, accuracy) of the measurements so far.
    """

    def __init__(self, settings: Canary, values: Sequence[Sequence[float]] = ()) -> None:
        self._settings = settings
        self.values = [(int(step), float(value)) for step, value in values]

    @property
    def ended(self) -> str:
        """Why the stage must not go on; "" if it may."""
        if not self.values:
            return ""
        settings, first, (step, newest) = self._settings, self.values[0][1], self.values[-1]
        if not first >= settings.threshold:
            return f"refused: its accuracy is {first:.2f}, below the threshold of {settings.threshold:g}"
        best = max(value for _, value in self.values)
        if newest < best - settings.drop:
            return f"stopped at step {step}: its accuracy fell from {best:.2f} to {newest:.2f}"
        return ""

    def is_due(self, step: int) -> bool:
        """Whether to measure after a step; 0 is the beginning of the stage."""
        return step % self._settings.every == 0 and (not self.values or self.values[-1][0] < step)

    async def measure(self, context: Context, stage: str, step: int) -> float:
        """Play the questions with the weights as they are.

        Raises: TrainingRefused below the threshold, where that is asked for.
        """
        settings = self._settings
        tasks: Sequence[Task] = context.tasks("train")[-settings.num_tasks :]
        found = await context.evaluate(tasks, context.sampling, trials=settings.trials, name=f"{stage}_canary")
        accuracy = MostConfident().value(found.trajectories)
        self.values.append((step, 0.0 if math.isnan(accuracy) else accuracy))
        if self.ended:
            logger.warning("stage %s, canary %s", stage, self.ended)
        if self.ended and step == 0 and settings.refuse == "fail":
            raise TrainingRefused(
                f"stages.{stage}.canary {self.ended}. Of {settings.trials} samples of each of {len(tasks)} labelled "
                "questions, the most confident one is right too seldom, so training on confidence would make the "
                "model surer of wrong answers. Train it on better demonstrations or from rewards first; a lower "
                f"stages.{stage}.canary.threshold lets it pass"
            )
        return self.values[-1][1]
