"""Predict a machine's next load: the message says how it behaves, and tools give statistics of what it did.

Owns the multi-turn task and its tools; notation, rewards and success are those of `NumberEnv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.tool_env import call
from agentrl.environments.numeric.datasets import DataSet, Numbers
from agentrl.environments.numeric.prediction import NumberEnv, tasks_of
from agentrl.errors import ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

READINGS = 24
_TRAIN, _HELD_OUT = 2000, 500
_SEED = 7_310
_NOISE = 4.0
_WORKLOADS = {"half": 0.5, "normal": 1.0, "double": 2.0}
_HABITS = ("steady", "drifting", "bursting")
STATISTICS = ("mean", "last", "trend", "high")


def statistics(readings: Sequence[float]) -> dict[str, float]:
    """Mean, last reading, change from one reading to the next on average, and largest reading."""
    values = np.asarray(readings)
    steps = (values[-1] - values[0]) / (len(values) - 1)
    return dict(
        zip(STATISTICS, (float(values.mean()), float(values[-1]), float(steps), float(values.max())), strict=True)
    )


def make_task(rng: np.random.Generator) -> dict[str, Any]:
    """Readings of a machine, what is said of it, and its next load."""
    habit, workload = str(rng.choice(_HABITS)), str(rng.choice(list(_WORKLOADS)))
    level, slope = rng.uniform(20, 80), rng.uniform(-1.2, 1.2)
    readings = level + slope * np.arange(READINGS) + rng.normal(0, 3, READINGS)
    readings[rng.integers(READINGS, size=2)] += rng.uniform(5, 25)
    known = [round(float(reading), 1) for reading in readings]
    found = statistics(known)
    base = {"steady": found["mean"], "drifting": found["last"] + 4 * found["trend"], "bursting": found["high"]}[habit]
    number = round(base * _WORKLOADS[workload] + float(rng.normal(0, _NOISE)), 2)
    return {"text": f"A {habit} machine, next with {workload} work.", "readings": known, "number": number}


@lru_cache(maxsize=16)
def load(split: int) -> tuple[DataSet, tuple[tuple[float, ...], ...]]:
    """The data set and the readings of each task, those of training first; its features are the statistics.

    Args: split: seed of all of it.
    """
    rng = np.random.default_rng([_SEED, split])
    drawn = [make_task(rng) for _ in range(_TRAIN + _HELD_OUT)]
    features = np.array([list(statistics(task["readings"]).values()) for task in drawn])

    def part(rows: slice) -> Numbers:
        return Numbers(tuple(t["text"] for t in drawn[rows]), tuple(t["number"] for t in drawn[rows]), features[rows])

    train, held_out = part(slice(_TRAIN)), part(slice(_TRAIN, None))
    return DataSet(train, held_out, min(train.numbers), max(train.numbers)), tuple(tuple(t["readings"]) for t in drawn)


@register("agentrl/NumericQueries-v0", max_turns=4)
class NumericQueries(NumberEnv):  # type: ignore[misc]
    """Ask for statistics of a machine's readings, then answer its next load.

    What it does next depends on the words of the message: the mean of a steady machine, the last reading and the trend
    of a drifting one, the largest reading of a bursting one, times the workload. Reward: as in NumericPrediction.

    Args:
        split: seed of the tasks.
        more: of `NumberEnv`: notation, base, digits, reward, tolerance, hint.
    """

    def __init__(self, *, split: int = 0, **more: Any) -> None:
        self._split = split
        super().__init__(**more)
        self.tasks = tasks_of(self.data, load(split)[1])

    def _data(self) -> DataSet:
        return load(self._split)[0]

    async def start(self, task: Task) -> str:
        self.asked: dict[str, str] = {}
        return self.question(task.data["text"])

    @tool
    def stat(self, name: str) -> str:
        """Ask for a statistic of the machine's readings.

        Args:
            name: mean, last, trend or high.
        """
        if name not in STATISTICS:
            raise ToolError(f"there is no statistic {name!r}, only {', '.join(STATISTICS)}")
        shown: str = f"{self._statistics[name]:.1f}"
        self.asked[name] = shown
        return shown

    @property
    def _statistics(self) -> Mapping[str, float]:
        return statistics(self.task.data["readings"])

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Ask for the statistics that the message's word calls for, then write the number."""
        text = str(self.task.data["text"])
        wanted = {"steady": ("mean",), "drifting": ("last", "trend"), "bursting": ("high",)}
        names = next(names for habit, names in wanted.items() if f" {habit} " in text)
        for name in names:
            if name not in self.asked:
                return call("stat", name=name)
        answer: Action = super().oracle(messages)
        return answer

    def state_key(self) -> str:
        return f"{self.task.id}|{','.join(self.asked)}"
