"""A gate for training on self-feedback: does the model's own confidence choose right answers on labelled questions?

Source: intrinsic rewards first rise and then fall, and how far depends on the model they begin with (arXiv:2603.08660).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentrl.bench.measures.confidence import MostConfident
from agentrl.config import Count, Fraction
from agentrl.errors import ConfigError, TrainingRefused
from agentrl.learning.confidence.span import answer_of
from agentrl.training.stages.base import Context
from agentrl.trajectory import Task, Trajectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canary:
    """Best-of-k accuracy by confidence on labelled questions, before a stage and during it.

    Attributes:
        num_tasks: questions: the last ones of the train split.
        trials: samples of each question; the one with the most confident answer counts.
        threshold: the least gain over guessing with which the stage begins: (accuracy - chance) / (1 - chance). It is
            0 for guesses, and 1 where every answer is right.
        answers: number of possible answers of a question; chance is then 1 / answers. None estimates chance from the
            questions (`chance_of`).
        refuse: `fail` ends the run with an error below the threshold; `skip` ends the stage alone.
        every: steps between two measurements during the stage.
        drop: the stage ends where the accuracy is lower than the best one by more than this. The last weights stay.
    """

    num_tasks: Count = 100
    trials: Count = 8
    threshold: Fraction = 0.6
    answers: Count | None = None
    refuse: Literal["fail", "skip"] = "fail"
    every: Count = 5
    drop: Fraction = 0.05

    def check(self, key: str) -> None:
        """Raises: ConfigError if there is nothing to choose: one sample of a question, or one answer to it."""
        if self.trials < 2:
            raise ConfigError(f"{key}.trials = {self.trials}: choosing by confidence needs 2 samples or more of a task")
        if self.answers == 1:
            raise ConfigError(
                f"{key}.answers = 1: a question with one possible answer tells nothing; give the number of possible "
                "answers, or leave it out to have it estimated"
            )


def chance_of(episodes: Sequence[Trajectory]) -> float:
    """What guessing would reach: the share of the most frequent right answer among the tasks whose answer is known.

    The right answer of a task is that of its episodes that succeeded. Guessing here is to give the same answer to every
    task, so a question that names its own candidates is easier than this says: set `Canary.answers` there.

    Returns: 0 if no episode succeeded.
    """
    right = {e.task.id: answer_of(e.turns[-1].action.text).casefold() for e in episodes if e.success and e.turns}
    return max(Counter(right.values()).values(), default=0) / max(1, len(right))


def gain_over(chance: float, accuracy: float) -> float:
    """The gain over guessing as a share of the largest possible one; 0 where guessing is as good or always right."""
    return max(0.0, accuracy - chance) / (1 - chance) if chance < 1 else 0.0


class CanaryWatch:
    """The measurements of one stage.

    Args: settings: when to measure, and what ends the stage.
    Attributes:
        values: (step, accuracy) of the measurements so far.
        chance: accuracy of guessing, from the settings or from the first measurement.
    """

    def __init__(self, settings: Canary) -> None:
        self._settings = settings
        self.values: list[tuple[int, float]] = []
        self.chance = 0.0 if settings.answers is None else 1 / settings.answers

    @property
    def ended(self) -> str:
        """Why the stage must not go on; "" if it may."""
        if not self.values:
            return ""
        settings, first, (step, newest) = self._settings, self.values[0][1], self.values[-1]
        gain = gain_over(self.chance, first)
        if not gain >= settings.threshold:
            return (
                f"refused: its accuracy is {first:.2f} where guessing gives {self.chance:.2f}, so its gain over "
                f"guessing is {gain:.2f}, below the threshold of {settings.threshold:g}"
            )
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
        if not self.values and settings.answers is None:
            self.chance = chance_of(found.trajectories)
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

    def summary(self) -> dict[str, Any]:
        return {"accuracy": self.values, "chance": self.chance, "ended": self.ended}

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "chance": self.chance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = [(int(step), float(value)) for step, value in state["values"]]
        self.chance = float(state["chance"])
