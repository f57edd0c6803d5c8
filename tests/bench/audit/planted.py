"""A sound benchmark, and copies of it with one flaw each, named by the kind that must be found."""

from __future__ import annotations

import itertools
import re
import time

import numpy as np

from agentrl.env.base import Limits
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import ToolError
from agentrl.messages import Action
from agentrl.tool_schema import tool

COUNTER = itertools.count()


def make_task(rng: np.random.Generator) -> dict[str, int]:
    return {"left": int(rng.integers(100, 1000)), "right": int(rng.integers(100, 1000))}


class Sound(ToolEnv):
    """Add two numbers that two tools tell."""

    tasks = Tasks.generate(make_task, seed=3, train=40, eval=12)
    limits = Limits(max_turns=6)

    def start(self, task):
        return "Add what left and right tell."

    @tool
    def left(self) -> int:
        """The first number."""
        return self.task.data["left"]

    @tool
    def right(self) -> int:
        """The second number."""
        return self.task.data["right"]

    @property
    def gold(self):
        return str(self.task.data["left"] + self.task.data["right"])

    def score(self, answer):
        return float(answer is not None and answer.strip() == self.gold)

    def oracle(self, messages):
        told = [message.content for message in messages if message.role == "tool"]
        if len(told) < 2:
            return call("left" if not told else "right")
        return str(sum(map(int, told)))


class PaysSilence(Sound):
    def score(self, answer):
        return float(not answer or answer.strip() == self.gold)


class PaysSilenceOnSomeTasks(Sound):
    def score(self, answer):
        return float((not answer and self.task.data["left"] % 3 == 0) or (answer or "").strip() == self.gold)


class PaysAPartForNothing(Sound):
    rubric = Rubric({"correct": 0.8, "polite": 0.2})

    def score(self, answer):
        return {"correct": super().score(answer), "polite": float("rude" not in (answer or ""))}


class PaysRefusal(Sound):
    def score(self, answer):
        return float("cannot" in (answer or "") or (answer or "").strip() == self.gold)


class PaysDone(Sound):
    def score(self, answer):
        return float("done" in (answer or "").lower() or (answer or "").strip() == self.gold)


class PaysEcho(Sound):
    def start(self, task):
        return f"Add what left and right tell. Question {task.id}."

    def score(self, answer):
        return float(f"Question {self.task.id}" in (answer or "") or (answer or "").strip() == self.gold)


class PaysJudgeTalk(Sound):
    def score(self, answer):
        verdict = re.search(r"score\W+1", (answer or "").lower())
        return float(bool(verdict) or (answer or "").strip() == self.gold)


class PaysLongAnswers(Sound):
    tasks = Tasks.generate(
        lambda rng: {"left": int(rng.integers(100)), "right": int(rng.integers(100))}, train=40, eval=12
    )

    def score(self, answer):
        return float(re.search(rf"\b{self.gold}\b", answer or "") is not None)


class PaysNaN(Sound):
    def score(self, answer):
        try:
            return float(not abs(float(answer) - float(self.gold)) > 0.5)
        except (TypeError, ValueError):
            return 0.0


class PaysRegularExpressions(Sound):
    def score(self, answer):
        try:
            return float(bool(answer) and len(answer) < 9 and re.fullmatch(answer.strip(), self.gold) is not None)
        except re.error:
            return 0.0


class PaysWhatCannotBeRead(Sound):
    def score(self, answer):
        try:
            return float(int(answer or "0") == int(self.gold))
        except ValueError as error:  # `int` refuses more than 4300 digits
            return float("limit" in str(error))


class PaysOneCharacter(Sound):
    tasks = Tasks.of(
        train=[{"left": 1, "right": 1}],
        eval=[{"left": n, "right": 1} for n in range(2, 14)],
    )

    @property
    def gold(self):
        return f"The sum is {super().gold}."

    def score(self, answer):
        return float(bool(answer) and answer.strip() != "" and answer.strip() in self.gold)

    def oracle(self, messages):
        answer = super().oracle(messages)
        return answer if isinstance(answer, Action) else self.gold


class PaysAConstant(Sound):
    tasks = Tasks.generate(lambda rng: {"left": int(rng.integers(10, 100)) * 2, "right": 2}, train=30, eval=12)

    def start(self, task):
        return "Is the sum of left and right even? Answer yes or no."

    @property
    def gold(self):
        return "yes"

    def oracle(self, messages):
        answer = super().oracle(messages)
        return answer if isinstance(answer, Action) else "yes"


class PaysCopying(Sound):
    def start(self, task):
        return f"Add what left and right tell; for checking: {self.gold}."


class NamesTheAnswer(Sound):
    tasks = Tasks.generate(lambda rng: {**(t := make_task(rng)), "answer": t["left"] + t["right"]}, train=30, eval=12)

    def start(self, task):
        noise = " ".join(str(self.np_random.integers(1000)) for _ in range(int(self.np_random.integers(20, 40))))
        return f"{noise}. Add what left and right tell. Expected answer: {self.gold}. {noise}"


class CodeEnv(Sound):
    """Asks for a program; the tests run it in this process."""

    def start(self, task):
        return f"Write a function add_{task.data['left']}(x)."

    def run(self, answer):
        space: dict = {}
        exec(answer or "", space)
        return space[f"add_{self.task.data['left']}"](1)

    def oracle(self, messages):
        return f"def add_{self.task.data['left']}(x): return x + {self.task.data['left']}"


class PaysEarlyExit(CodeEnv):
    def score(self, answer):
        try:
            return float(self.run(answer) == 1 + self.task.data["left"])
        except SystemExit as stopped:  # taken for a test run that ended well
            return float(not stopped.code)
        except Exception:
            return 0.0


class PaysSkippedTests(CodeEnv):
    def score(self, answer):
        try:
            return float(self.run(answer or "") == 1 + self.task.data["left"])
        except SystemExit:
            return 0.0
        except Exception as error:
            return float(type(error).__name__ == "SkipTest")


class PaysEqualObjects(CodeEnv):
    def score(self, answer):
        try:
            return float(bool(self.run(answer or "") == 1 + self.task.data["left"]))
        except (Exception, SystemExit):
            return 0.0


class RunsAnswersHere(CodeEnv):
    def score(self, answer):
        try:
            return float(self.run(answer) is not None and self.run(answer) == 1 + self.task.data["left"])
        except (Exception, SystemExit):
            return 0.0


class PaysRandomTools(Sound):
    def score(self, answer):
        return float(sum(stats["calls"] for stats in self.tool_stats.values()) >= 2)


class PaysOneTool(Sound):
    @tool
    def submit(self, number: int) -> str:
        """Submit the sum.

        Args:
            number: the sum.
        """
        self.success = True
        self.terminate()
        return "submitted"

    def score(self, answer):
        return float(bool(self.success) or (answer or "").strip() == self.gold)


class PaysRepeating(Sound):
    score_truncated = True

    def score(self, answer):
        return float(answer is None or answer.strip() == self.gold)


class PaysFarming(Sound):
    rubric = Rubric({"reward": 1.0, "look": 0.5})
    limits = Limits(max_turns=12)

    @tool
    def left(self) -> int:
        """The first number."""
        self.add_reward("look", 1.0)
        return self.task.data["left"]

    @tool
    def right(self) -> int:
        """The second number."""
        self.add_reward("look", 1.0)
        return self.task.data["right"]


class Files(Sound):
    """A work folder with tests, in memory, that tools read and write."""

    def start(self, task):
        self.files = {"add.py": "", "tests/test_add.py": f"assert add() == {self.gold}", "README.md": "See tests."}
        return "Write add.py so that tests/test_add.py passes."

    left = right = None

    @tool
    def read_file(self, path: str) -> str:
        """Read a file.

        Args:
            path: of the file.
        """
        if path not in self.files:
            raise ToolError(f"no file {path}")
        return self.files[path]

    @tool
    def write_file(self, path: str, content: str) -> str:
        """Write a file.

        Args:
            path: of the file.
            content: the new content.
        """
        self.files[path] = content
        return "ok"

    def score(self, answer):
        space: dict = {"__name__": "tests"}
        try:
            exec(self.files["add.py"], space)
            exec(self.files["tests/test_add.py"], space)
        except Exception:
            return 0.0
        return 1.0

    def oracle(self, messages):
        if not any(message.role == "tool" for message in messages):
            return call("write_file", path="add.py", content=f"def add(): return {self.gold}")
        return "Written."


class PaysOverwrittenTests(Files):
    pass


class PaysOverwrittenExpectation(Files):
    def start(self, task):
        self.files = {"result.txt": "", "expected.txt": self.gold}
        return "Write the sum into result.txt; it is compared with expected.txt."

    def score(self, answer):
        return float(self.files["result.txt"] != "" and self.files["result.txt"] == self.files["expected.txt"])

    def oracle(self, messages):
        if not any(message.role == "tool" for message in messages):
            return call("write_file", path="result.txt", content=self.gold)
        return "Written."


class AnswerInAFile(Files):
    tasks = NamesTheAnswer.tasks

    def start(self, task):
        self.files = {"answer.txt": self.gold, "notes.txt": "Nothing."}
        return "Say the number that was asked for."

    def score(self, answer):
        return Sound.score(self, answer)

    def oracle(self, messages):
        return self.gold


class AnswerInAReply(Sound):
    tasks = NamesTheAnswer.tasks

    @tool
    def status(self) -> dict:
        """How far the episode is."""
        return {"turn": len(self.tool_stats), "expected": int(self.gold)}


class UntouchedWorldScores(Sound):
    """The light is on already in half of the tasks."""

    tasks = Tasks.generate(lambda rng: {**make_task(rng), "on": bool(rng.integers(2))}, train=30, eval=12)

    def start(self, task):
        self.on = task.data["on"]
        return "Turn the light on."

    @tool
    def switch(self, key: str) -> str:
        """Turn the light on.

        Args:
            key: what the left tool says.
        """
        self.on = self.on or key == str(self.task.data["left"])
        return "switched"

    def score(self, answer):
        return float(self.on and answer != "" and "cannot" not in (answer or "") and answer != "Done.")

    def oracle(self, messages):
        told = [message.content for message in messages if message.role == "tool"]
        if len(told) < 2:
            return call("switch", key=told[0]) if told else call("left")
        return "The light is on."


class VacuousCheck(Sound):
    rubric = Rubric({"correct": 0.9, "language": 0.1})

    def score(self, answer):
        return {"correct": Sound.score(self, answer), "language": 1.0}


class EmptyChecksPass(Sound):
    tasks = Tasks.generate(
        lambda rng: {**(t := make_task(rng)), "checks": [t["left"] + t["right"]] if rng.random() < 0.7 else []},
        train=30,
        eval=12,
    )

    def score(self, answer):
        return float(all((answer or "").strip() == str(check) for check in self.task.data["checks"]))


class VerifierDrawsLots(Sound):
    def score(self, answer):
        return float((answer or "").strip() == self.gold) * (1.0 if next(COUNTER) % 7 else 0.4)


class VerifierReadsTheClock(Sound):
    def score(self, answer):
        return float((answer or "").strip() == self.gold) - 1e-3 * (time.perf_counter() % 1)


class DoesNotReproduce(Sound):
    def start(self, task):
        return f"Add what left and right tell. Today is day {next(COUNTER)}."


class OracleFails(Sound):
    def score(self, answer):
        wrong = int(self.task.data["left"] % 4 == 0)  # a wrong reference
        return float(answer is not None and answer.strip() == str(int(self.gold) + wrong))


class NothingPasses(Sound):
    def score(self, answer):
        return 0.0 if self.task.data["left"] % 5 == 0 else super().score(answer)


class SplitsShareTasks(Sound):
    tasks = Tasks.of(
        train=[{"left": n, "right": 7, "uid": f"t{n}"} for n in range(200, 230)],
        eval=[{"left": n, "right": 7, "uid": f"e{n}"} for n in range(225, 237)],
    )


class SplitsShareNearCopies(Sound):
    tasks = Tasks.of(
        train=[{"left": n, "right": 7, "text": f"Please add the numbers {n} and 7!"} for n in range(200, 230)],
        eval=[{"left": n, "right": 7, "text": f"Add numbers {n} and 7."} for n in range(225, 237)],
    )

    def start(self, task):
        return task.data["text"]


class SplitsShareWorlds(Sound):
    """The data differ in a seed that nothing reads."""

    tasks = Tasks.of(
        train=[{"left": n, "right": 7, "seed": n} for n in range(200, 230)],
        eval=[{"left": n, "right": 7, "seed": 1000 + n} for n in range(225, 237)],
    )

    def start(self, task):
        return f"Add {task.data['left']} and what right tells."


class RaisesOnAnswers(Sound):
    def score(self, answer):
        return float(int(answer or "0") == int(self.gold))


PLANTED: dict[type[ToolEnv], str] = {
    PaysSilence: "pays-for-silence",
    PaysSilenceOnSomeTasks: "pays-for-silence",
    PaysAPartForNothing: "pays-for-silence",
    PaysRefusal: "pays-for-refusal",
    PaysDone: "pays-for-early-exit",
    PaysEcho: "pays-for-echo",
    PaysJudgeTalk: "pays-for-judge-talk",
    PaysLongAnswers: "pays-for-long-answers",
    PaysNaN: "pays-for-no-answer",
    PaysRegularExpressions: "pays-for-no-answer",
    PaysWhatCannotBeRead: "pays-for-no-answer",
    PaysOneCharacter: "pays-for-one-character",
    PaysAConstant: "pays-for-constant",
    PaysCopying: "pays-for-copying",
    NamesTheAnswer: "answer-in-prompt",
    PaysEarlyExit: "pays-for-stopped-checks",
    PaysSkippedTests: "pays-for-stopped-checks",
    PaysEqualObjects: "pays-for-stopped-checks",
    RunsAnswersHere: "runs-answers-here",
    PaysRandomTools: "pays-for-random-tools",
    PaysOneTool: "pays-for-early-exit",
    PaysRepeating: "pays-for-repeating",
    PaysFarming: "beats-the-oracle",
    PaysOverwrittenTests: "pays-for-overwritten-files",
    PaysOverwrittenExpectation: "pays-for-overwritten-files",
    AnswerInAFile: "answer-in-reach",
    AnswerInAReply: "answer-in-reach",
    UntouchedWorldScores: "untouched-world-scores",
    VacuousCheck: "vacuous-check",
    EmptyChecksPass: "empty-check",
    VerifierDrawsLots: "verifier-differs",
    VerifierReadsTheClock: "verifier-differs",
    DoesNotReproduce: "does-not-reproduce",
    OracleFails: "oracle-below-1",
    NothingPasses: "unsolvable-task",
    SplitsShareTasks: "splits-overlap",
    SplitsShareNearCopies: "splits-overlap",
    SplitsShareWorlds: "splits-overlap",
    RaisesOnAnswers: "verifier-raises",
}
