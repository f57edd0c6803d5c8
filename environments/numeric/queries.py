"""Predict the load of the one machine that goes on: the message says which and how it behaves, tools give statistics.

Owns the multi-turn task and its tools; notation, rewards and success are those of `NumberEnv`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.tool_env import call
from agentrl.environments.numeric.datasets import DataSet, Numbers
from agentrl.environments.numeric.prediction import NumberEnv
from agentrl.errors import ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

MACHINES = ("pump", "fan", "belt")
STATISTICS = ("mean", "last", "trend", "high")
READINGS = 24
WANTED: Mapping[str, tuple[str, ...]] = {"steady": ("mean",), "drifting": ("last", "trend"), "bursting": ("high",)}
"""The statistics that count for a machine, by how it behaves."""
_WORK = {"half": 0.5, "the same": 1.0, "double": 2.0}
_TRAIN, _HELD_OUT = 2000, 500
_SEED = 7_310
_NOISE = 4.0
_DRIFT_STEPS = 4


def statistics(readings: Sequence[float]) -> dict[str, float]:
    """Mean, last reading, change from one reading to the next on average, and largest reading."""
    values = np.asarray(readings)
    steps = (values[-1] - values[0]) / (len(values) - 1)
    return dict(
        zip(STATISTICS, (float(values.mean()), float(values[-1]), float(steps), float(values.max())), strict=True)
    )


def make_task(rng: np.random.Generator) -> dict[str, Any]:
    """A message about three machines of which one goes on, the readings of each, and the load of that one."""
    order = [str(machine) for machine in rng.permutation(MACHINES)]
    habits = [str(habit) for habit in rng.choice(list(WANTED), 3)]
    work, left = str(rng.choice(list(_WORK))), int(rng.integers(3))
    readings = {machine: _readings(rng) for machine in MACHINES}
    found = statistics(readings[order[left]])
    base = {"steady": found["mean"], "bursting": found["high"]}.get(
        habits[left], found["last"] + _DRIFT_STEPS * found["trend"]
    )
    first, second = (machine for machine in order if machine != order[left])
    named = [f"a {habit} {machine}" for habit, machine in zip(habits, order, strict=True)]
    return {
        "text": f"{named[0]}, {named[1]}, {named[2]}. The {first} and the {second} stop, then {work} work.",
        "readings": readings,
        "number": round(base * _WORK[work] + float(rng.normal(0, _NOISE)), 2),
    }


def _readings(rng: np.random.Generator) -> list[float]:
    level, slope = rng.uniform(20, 80), rng.uniform(-1.2, 1.2)
    readings = level + slope * np.arange(READINGS) + rng.normal(0, 3, READINGS)
    readings[rng.integers(READINGS, size=2)] += rng.uniform(5, 25)
    return [round(float(reading), 1) for reading in readings]


def going_on(text: str) -> tuple[str, str]:
    """The machine of a message that does not stop, and how it behaves."""
    habits = {machine: habit for habit, machine in re.findall(r"a (\w+) (\w+)", text.split(". ")[0])}
    stopped = re.findall(r"[Tt]he (\w+)", text.split(". ")[1])
    machine = next(machine for machine in habits if machine not in stopped[:2])
    return machine, habits[machine]


@lru_cache(maxsize=16)
def load(split: int) -> DataSet:
    """The data set; its features are all statistics.

    Args: split: seed of all of it.
    """
    rng = np.random.default_rng([_SEED, split])
    drawn = [make_task(rng) for _ in range(_TRAIN + _HELD_OUT)]
    features = np.array([[v for m in MACHINES for v in statistics(t["readings"][m]).values()] for t in drawn])

    def part(rows: slice) -> Numbers:
        texts, numbers = (tuple(task[key] for task in drawn[rows]) for key in ("text", "number"))
        return Numbers(texts, numbers, features[rows], tuple({"readings": task["readings"]} for task in drawn[rows]))

    train, held_out = part(slice(_TRAIN)), part(slice(_TRAIN, None))
    return DataSet(train, held_out, min(train.numbers), max(train.numbers))


@register("agentrl/NumericQueries-v0", max_turns=4)
class NumericQueries(NumberEnv):  # type: ignore[misc]
    """Ask for statistics of the machine that goes on, then answer its load.

    Which statistics count depends on the words of the message: the mean of a steady machine, the last reading and the
    trend of a drifting one, the largest reading of a bursting one, times the work. Reward: as in NumericPrediction.

    Args:
        split: seed of the tasks.
        more: of `NumberEnv`: notation, base, digits, reward, tolerance, hint.
    """

    def __init__(self, *, split: int = 0, **more: Any) -> None:
        self._split = split
        super().__init__(**more)

    def _data(self) -> DataSet:
        return load(self._split)

    async def start(self, task: Task) -> str:
        self.asked: dict[str, str] = {}
        question: str = self.question(task.data["text"])
        return question

    @tool
    def stat(self, machine: str, name: str) -> str:
        """Ask for a statistic of a machine's readings.

        Args:
            machine: pump, fan or belt.
            name: mean, last, trend or high.
        """
        readings = self.task.data["readings"]
        if machine not in readings or name not in STATISTICS:
            raise ToolError(
                f"there is no {name!r} of {machine!r}, only {', '.join(STATISTICS)} of {', '.join(readings)}"
            )
        shown = f"{statistics(readings[machine])[name]:.1f}"
        self.asked[f"{machine} {name}"] = shown
        return shown

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Ask for the statistics that count, then write the number."""
        machine, habit = going_on(self.task.data["text"])
        for name in WANTED[habit]:
            if f"{machine} {name}" not in self.asked:
                return call("stat", machine=machine, name=name)
        answer: Action = super().oracle(messages)
        return answer

    def state_key(self) -> str:
        return f"{self.task.id}|{','.join(self.asked)}"
