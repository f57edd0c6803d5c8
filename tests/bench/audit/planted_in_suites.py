"""Copies of the sound benchmark with a flaw as suites of others have them, named by the kind that must be found."""

from __future__ import annotations

import json

import numpy as np

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.tool_schema import tool
from tests.bench.audit.planted import COUNTER, Sound, make_task

LONG = (
    "A farmer who lives by the river counts the sheep on both of her meadows every evening before the gate is shut. "
    "On the upper meadow she finds {left} of them, which is what she had hoped for after a dry summer, and on the "
    "lower meadow, where the grass is wet, there are {right}. {ask} Answer with one number and nothing else, since a "
    "machine reads it and takes whatever else you write as a mistake."
)


def with_answer(answer):
    """Makes tasks that hold an answer, which depends on the numbers."""

    def made(rng):
        task = make_task(rng)
        return {**task, "answer": answer(**task)}

    return Tasks.generate(made, train=12, eval=12)


class NamesTheWholeCall(Sound):
    """The answer has a structure, and the first message holds all of it."""

    tasks = with_answer(lambda left, right: {"add": {"numbers": [left, right]}})

    def start(self, task):
        return f"Add what left and right tell. The answer is {json.dumps(task.data['answer'])}."


class NamesAValueOfTheAnswer(Sound):
    """The answer has a structure with one value, which the first message names."""

    tasks = with_answer(lambda left, right: {"sum": left + right})

    def start(self, task):
        return f"Add what left and right tell. The answer is {self.gold}."


class RefusesShippedSolutions(Sound):
    """The oracle corrects what the suite ships, which is wrong on some tasks."""

    def as_shipped(self, messages):
        done = self.oracle(messages)
        return f"{done}." if isinstance(done, str) and self.task.data["left"] % 4 == 0 else done


class SkipsAPart(Sound):
    """A part of the verdict is left out on some tasks."""

    def not_judged(self, task):
        return ("style",) if task.data["left"] % 4 == 0 else ()


class SplitsShareLongNearCopies(Sound):
    """Long texts, each of other words; a copy differs from its first in one place."""

    tasks = Tasks.of(
        train=[{"left": n, "right": 7, "ask": "How many sheep has she got?"} for n in range(200, 230)],
        eval=[{"left": n, "right": 7, "ask": "What is the number of all her sheep?"} for n in range(225, 237)],
    )

    def start(self, task):
        words = np.random.default_rng(task.data["left"]).choice(LONG.split(), 150)
        return f"{' '.join(words)} {task.data['ask']}"

    def oracle(self, messages):
        return self.gold


class HidesItsWorld(Sound):
    """What is to be found differs each time, and shows only in the verdict."""

    def start(self, task):
        self.secret = str(next(COUNTER))
        return "Say the number."

    def score(self, answer):
        return float(answer == self.secret)

    def oracle(self, messages):
        return self.secret


PLANTED_IN_SUITES: dict[type[ToolEnv], str] = {
    NamesTheWholeCall: "answer-in-prompt",
    NamesAValueOfTheAnswer: "answer-in-prompt",
    RefusesShippedSolutions: "shipped-solution-refused",
    SkipsAPart: "skipped-check",
    SplitsShareLongNearCopies: "splits-overlap",
    HidesItsWorld: "verifier-differs",
}


class CallsWhatTheRequestNames(Sound):
    """Sound: the answer is a call, whose arguments stand in the request by right."""

    tasks = with_answer(lambda left, right: [{"add": {"label": [left, right]}}])

    def start(self, task):
        self.added = None
        return f"Add the parcel with the label {task.data['left']}, not the reference {task.data['right']}."

    @tool
    def add(self, label: int) -> str:
        """Add a parcel.

        Args:
            label: of the parcel.
        """
        self.added = label
        return "added"

    def score(self, answer):
        return float(self.added == self.task.data["left"])

    def oracle(self, messages):
        return call("add", label=self.task.data["left"]) if self.added is None else "Done."


class AsksByOnePattern(Sound):
    """Sound: two long questions that differ in a number, and so in the answer."""

    tasks = Tasks.of(train=[{"left": 204, "right": 300}], eval=[{"left": 451, "right": 300}])

    def start(self, task):
        return LONG.format(**task.data, ask="How many sheep are there?")

    def oracle(self, messages):
        return self.gold


class OracleDrawsItsWay(Sound):
    """Sound: there are several solutions, and the oracle takes any."""

    def oracle(self, messages):
        told = [message for message in messages if message.role == "tool"]
        if len(told) < 2 + next(COUNTER) % 3:
            return call("left" if next(COUNTER) % 2 else "right")
        return self.gold
