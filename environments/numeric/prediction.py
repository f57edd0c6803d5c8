"""Predict a number from a text, digit by digit.

Owns rewards of one answer; rewards that compare the answers of a group are feedbacks (`agentrl.rollout.feedback`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.environments.numeric.datasets import DataSet, Numbers, load, load_file
from agentrl.environments.numeric.notation import Normalised, Notation, Plain, Scientific
from agentrl.environments.numeric.tables import Style
from agentrl.errors import ConfigError
from agentrl.messages import Action, Message
from agentrl.rollout.predictions import IS_NUMBER, PREDICTION, SCALE, TARGET, WORST
from agentrl.trajectory import Task

NotationName = Literal["normalised", "scientific", "plain"]
RewardName = Literal["squared", "absolute", "reciprocal"]
_STEPS_PER_SCALE = 50.0  # plain digits are at least this fine, in steps per standard deviation
_NOTHING = 1.0  # standard deviations that an answer without a number counts as beyond the farther end


def notation_of(name: str, data: DataSet, base: int, digits: int) -> Notation:
    """A notation by name, for the numbers of a data set."""
    if name == "normalised":
        return Normalised(data.low, data.high, base, digits)
    if name == "scientific":
        return Scientific(digits)
    decimals = 0
    while decimals < 9 and 10.0**-decimals > data.scale / _STEPS_PER_SCALE:
        decimals += 1
    return Plain(decimals)


def worst_of(number: float, data: DataSet) -> float:
    """What an answer without a number counts as: one standard deviation beyond the end that is farther away."""
    low, high, beyond = float(data.low), float(data.high), _NOTHING * float(data.scale)
    return low - beyond if number - low > high - number else high + beyond


def reward_of(name: str, error: float) -> float:
    """1 for no error, and less for a larger one.

    Args: error: absolute, in standard deviations of the training numbers.
    """
    if name == "reciprocal":
        return 1 / (1 + error)
    return 1 - (error**2 if name == "squared" else error)


@lru_cache(maxsize=16)
def tasks_of(data: DataSet) -> Tasks:
    """Tasks of a data set; what is in the training split too is left out of the held-out one."""

    def of(part: Numbers) -> list[dict[str, Any]]:
        rows = zip(part.texts, part.numbers, part.hidden or ({},) * len(part.texts), strict=True)
        return [{"text": text, TARGET: n, WORST: worst_of(n, data), **hidden} for text, n, hidden in rows]

    train = of(data.train)
    return Tasks.of(train=train, eval=[task for task in of(data.held_out) if task not in train])


class NumberEnv(ToolEnv):
    """What environments share whose answer is a number: its notation, reward, success and info.

    Args:
        notation: `normalised` (digits of the place between the smallest and largest number), `scientific` (sign,
            mantissa, exponent) or `plain`.
        base: of normalised digits.
        digits: of the answer; those of the mantissa in `scientific`; not used by `plain`.
        reward: of an error in standard deviations of the training numbers: 1 - error² (`squared`), 1 - error
            (`absolute`) or 1 / (1 + error) (`reciprocal`, and then 0 for no number).
        tolerance: of a success, in these standard deviations.
        hint: say in the first message how the number is to be written, for a model that has not learnt it.
    """

    rubric = Rubric({"closeness": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks", "data")
    score_truncated = True
    data: DataSet

    def __init__(
        self,
        *,
        notation: NotationName = "normalised",
        base: int = 10,
        digits: int = 2,
        reward: RewardName = "squared",
        tolerance: float = 0.25,
        hint: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        for key, value, names in (("notation", notation, NotationName), ("reward", reward, RewardName)):
            if value not in get_args(names):
                raise ConfigError(f"{key} = {value!r}: expected one of {', '.join(get_args(names))}")
        if tolerance <= 0:
            raise ConfigError(f"tolerance must be above 0, got {tolerance}")
        self.data = self._data()
        self.tasks = tasks_of(self.data)
        self.notation = notation_of(notation, self.data, base, digits)
        self.reward, self.tolerance, self.hint = reward, tolerance, hint

    def _data(self) -> DataSet:
        raise NotImplementedError(f"{type(self).__name__} must say which data it has")

    def question(self, text: str) -> str:
        """The first message for a text."""
        return f"{text}\n{self.notation.hint}" if self.hint else text

    async def score(self, answer: str | None) -> dict[str, float]:
        target, scale = float(self.task.data[TARGET]), self.data.scale
        number = None if answer is None else self.notation.read(answer)
        low, high = self.data.low - _NOTHING * scale, self.data.high + _NOTHING * scale
        prediction = float(self.task.data[WORST]) if number is None else min(max(number, low), high)
        error = abs(prediction - self._written(target)) / scale
        self.success = number is not None and error <= self.tolerance
        self.add_info(**{TARGET: target, PREDICTION: prediction, SCALE: scale, IS_NUMBER: number is not None})
        return {"closeness": 0.0 if number is None and self.reward == "reciprocal" else reward_of(self.reward, error)}

    def _written(self, number: float) -> float:
        """The number as the notation has it: an answer cannot come closer, and earns 1."""
        written: float | None = self.notation.read(self.notation.write(number))
        assert written is not None
        return written

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Write the number."""
        return Action(text=self.notation.write(float(self.task.data[TARGET])))

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A lazy habit: answer the mean of the training numbers, whatever the text."""
        return Action(text=self.notation.write(self.data.mean))


@register("agentrl/NumericPrediction-v0", max_turns=1)
class NumericPrediction(NumberEnv):
    """Read a text and answer a number.

    Reward: 1 for the number itself, less for one that is farther away. Success: within the tolerance.

    Args:
        data: `reports` or `code_cost` (texts), or a table of scikit-learn: `diabetes`, `breast_cancer`, `wine`,
            `linnerud`, `friedman1`, `friedman2`, `friedman3`.
        file: a CSV or JSONL file of your own instead.
        text, number: names of its columns.
        split: which fifth of the rows is held out; generated data are drawn anew for each.
        features: how those of a table are written: `words` of two letters, `digits`, or `named` digits.
        feature_digits: of each of these numbers.
        more: of `NumberEnv`: notation, base, digits, reward, tolerance, hint.
    """

    def __init__(
        self,
        *,
        data: str = "reports",
        file: str | None = None,
        text: str = "text",
        number: str = "number",
        split: int = 0,
        features: Style = "words",
        feature_digits: int = 2,
        **more: Any,
    ) -> None:
        if features not in get_args(Style):
            raise ConfigError(f"features = {features!r}: expected one of {', '.join(get_args(Style))}")
        if feature_digits not in (1, 2, 3, 4):
            raise ConfigError(f"feature_digits must be 1 to 4, got {feature_digits!r}")
        self._source = (data, file, text, number, split, features, feature_digits)
        super().__init__(**more)

    def _data(self) -> DataSet:
        data, file, text, number, split, style, digits = self._source
        if file is not None:
            return load_file(file, text, number, split)
        return load(data, split, style=style, digits=digits)

    async def start(self, task: Task) -> str:
        return self.question(task.data["text"])
