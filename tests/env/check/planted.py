"""A sound environment, and copies of it with one defect each, named by the code that must find it."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import os
import random
import threading
import time
import uuid

import numpy as np

from agentrl.env.base import Env, Limits
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool

COUNTER = itertools.count()
CURRENT: dict[str, int] = {}
WORDS = ("red", "green", "blue", "black", "white", "pink", "grey", "gold")


def make_task(rng: np.random.Generator) -> dict[str, int]:
    return {"left": int(rng.integers(100, 1000)), "right": int(rng.integers(100, 1000))}


class Sound(ToolEnv):
    """Add two numbers that two tools tell."""

    tasks = Tasks.generate(make_task, seed=3, train=40, eval=20)
    limits = Limits(max_turns=6)

    def start(self, task):
        self.offset = int(self.np_random.integers(10))
        return f"Add what left and right tell, and {self.offset}."

    @tool
    def left(self) -> int:
        """The first number."""
        return self.task.data["left"]

    @tool
    def right(self, scale: int = 1) -> int:
        """The second number, times a factor.

        Args:
            scale: the factor.
        """
        return self.task.data["right"] * scale

    def answer(self):
        return self.task.data["left"] + self.task.data["right"] + self.offset

    def score(self, answer):
        return float(answer == str(self.answer()))

    def oracle(self, messages):
        if messages[-1].role == "user":
            return Action(tool_calls=call("left").tool_calls + call("right").tool_calls)
        return str(self.answer())


class SoundAsync(Sound):
    """The same, waiting at every turn."""

    async def start(self, task):
        return Sound.start(self, task)

    @tool
    async def left(self) -> int:
        """The first number."""
        return self.task.data["left"]

    @tool(blocking=True)
    def right(self, scale: int = 1) -> int:
        """The second number, times a factor."""
        return self.task.data["right"] * scale


class NondeterministicUnseeded(Sound):
    def start(self, task):
        self.offset = int(np.random.default_rng().integers(10**6))
        return f"Add {self.offset}."


class NondeterministicSetOrder(Sound):
    def start(self, task):
        return Sound.start(self, task) + " Colours: " + " ".join({*WORDS})


class NondeterministicHash(Sound):
    @tool
    def left(self) -> str:
        """The first number."""
        return str(hash(f"key {self.task.data['left']}"))


class ClockInTool(Sound):
    @tool
    def left(self) -> int:
        """The first number, or another at night."""
        return self.task.data["left"] if time.time() > 0 else 0


class ClockDate(Sound):
    def start(self, task):
        self.today = datetime.date.today() if task is None else None
        datetime.datetime.now()
        return Sound.start(self, task)


class GlobalRngRandom(Sound):
    def start(self, task):
        random.seed(self.np_random.integers(100).item())
        return Sound.start(self, task) + f" Mood {random.random()}."


class GlobalRngNumpy(Sound):
    @tool
    def left(self) -> int:
        """The first number."""
        np.random.seed(3)
        return self.task.data["left"] + int(np.random.randint(1))


class GlobalRngUuid(Sound):
    def start(self, task):
        self.hidden = uuid.uuid4().hex
        return Sound.start(self, task)


class GlobalRngEntropy(Sound):
    def start(self, task):
        self.hidden = os.urandom(4)
        return Sound.start(self, task)


class SharedStateList(Sound):
    seen: list[str] = []  # noqa: RUF012

    def start(self, task):
        self.seen.append(task.id)
        return Sound.start(self, task) + f" Task number {len(self.seen)}."


class SharedStateModule(Sound):
    @tool
    def left(self) -> str:
        """The first number."""
        return f"call {next(COUNTER)}"


class SharedStateNeighbour(Sound):
    def start(self, task):
        CURRENT["left"] = task.data["left"]
        return Sound.start(self, task)

    @tool
    def left(self) -> int:
        """The first number."""
        return CURRENT["left"]

    def save_extra(self):
        return dict(CURRENT)

    def load_extra(self, extra):
        CURRENT.update(extra)


class AnswerInPrompt(Sound):
    def start(self, task):
        return Sound.start(self, task) + f" (Solution: {self.answer()})"


class AnswerInPromptSystem(Sound):
    def start(self, task):
        said = Sound.start(self, task)
        return (Message("system", f"The user's secret is '{self.answer()}', do not tell."), Message("user", said))


class AnswerInPromptSomewhere(Sound):
    def start(self, task):
        said = Sound.start(self, task)
        others = [str(number) for number in self.np_random.integers(5000, 9000, 30)]
        others.insert(int(self.np_random.integers(12, 18)), str(self.answer()))
        return f"{said} Numbers: {' '.join(others)}."


class RewardForNothing(Sound):
    def score(self, answer):
        return 1.0 if not answer else Sound.score(self, answer)


class RewardForNothingBonus(Sound):
    rubric = Rubric({"reward": 1.0, "polite": 0.3})

    def score(self, answer):
        return {"reward": Sound.score(self, answer), "polite": 1.0}


class OracleBelow1(Sound):
    def oracle(self, messages):
        return str(self.answer() + 1)


class OracleBelow1Truncated(Sound):
    limits = Limits(max_turns=1)


class OracleFails(Sound):
    def oracle(self, messages):
        raise KeyError("plan")


class NoOracle(Sound):
    oracle = property()


class InfoNotJson(Sound):
    async def astep(self, action):
        *rest, info = await super().astep(action)
        return (*rest, {**info, "left": np.int64(3)})


class InfoNotJsonReset(Sound):
    async def areset(self, *, seed=None, options=None):
        observation, info = await super().areset(seed=seed, options=options)
        return observation, {**info, "tags": {"a"}}


class BadReward(Sound):
    def score(self, answer):
        return float("nan")


class ToolRaises(Sound):
    @tool
    def right(self, scale: int = 1) -> int:
        """The second number, over a divisor."""
        return self.task.data["right"] // scale


class ToolRaisesOnText(Sound):
    @tool
    async def lookup(self, word: str) -> str:
        """Look a word up."""
        return {"tea": "a drink"}[word]


class ToolReturnsOddThing(Sound):
    @tool
    def lookup(self, word: str) -> object:
        """Look a word up."""
        return threading.Lock()


class ToolFaults(Sound):
    @tool
    def lookup(self, word: str) -> str:
        """Look a word up."""
        raise EnvFault("server unreachable")


class ToolHangsInline(Sound):
    @tool
    def lookup(self, word: str) -> str:
        """Look a word up."""
        while not word.startswith("\0"):
            time.sleep(0.01)
        return word


class ToolHangsAsync(Sound):
    @tool
    async def lookup(self, word: str) -> str:
        """Look a word up."""
        import asyncio

        await asyncio.sleep(3600)
        return word


class ToolHangsInThread(Sound):
    @tool(blocking=True)
    def lookup(self, word: str) -> str:
        """Look a word up."""
        threading.Event().wait(3600)
        return word


class ToolSlow(Sound):
    limits = Limits(max_turns=2)

    @tool
    def left(self) -> int:
        """The first number."""
        time.sleep(0.06)
        return self.task.data["left"]


class ToolUndocumented(Sound):
    @tool
    def lookup(self, word: str) -> str:
        return word


class NeverEnds(Sound):
    limits = Limits(max_turns=None)


class NeverEndsTalking(Sound):
    limits = Limits(max_turns=None)

    def respond(self, text):
        return "Go on." if text != str(self.answer()) else None


class BadSpaceDict(Sound):
    async def areset(self, *, seed=None, options=None):
        observation, info = await super().areset(seed=seed, options=options)
        return tuple(message.to_openai() for message in observation), info


class BadSpaceAssistant(Sound):
    def respond(self, text):
        return None if text == str(self.answer()) else "Go on."

    async def astep(self, action):
        observation, *rest = await super().astep(action)
        return (Message("assistant", "as you said"), *observation), *rest


class BadMask(Sound):
    async def areset(self, *, seed=None, options=None):
        observation, info = await super().areset(seed=seed, options=options)
        return observation, {**info, "action_mask": [0, 0, 0]}


class RenderRaises(Sound):
    def render(self):
        return self.canvas.text()


class RenderReturnsNothing(Sound):
    def render(self):
        return None


class TasksOverlap(Sound):
    tasks = Tasks.of(train=[{"left": 1, "right": 2}], eval=[{"left": 1, "right": 2}])


class TasksNotJson(Sound):
    tasks = Tasks.of(train=[{"left": 1, "right": np.int64(2)}], eval=[{"left": 5, "right": 2}])


class ForkDiverges(Sound):
    not_state = ("count",)

    def start(self, task):
        self.count = 0
        return Sound.start(self, task)

    @tool
    def left(self) -> str:
        """The first number, and how often it was asked for."""
        self.count = getattr(self, "count", 0) + 1
        return f"{self.task.data['left']} ({self.count})"


class ForkFails(Sound):
    def start(self, task):
        self.lock = threading.Lock()
        return Sound.start(self, task)


class Gymnasium(Sound):
    async def areset(self, *, seed=None, options=None):
        return await super().areset(seed=None, options=options)


class ResetFails(Sound):
    def start(self, task):
        raise OSError("no network")


class CannotMake(Sound):
    def __init__(self, key, *, render_mode=None):
        super().__init__(render_mode=render_mode)


class Hangs(Sound):
    def start(self, task):
        threading.Event().wait(3600)
        return ""


class Raises(Sound):
    def score(self, answer):
        return float(answer.split()[0] == str(self.answer()))


class Misspelt(Sound):
    def score(self, answer):
        return {"corect": Sound.score(self, answer)}


class NoEvalSplit(Sound):
    tasks = Tasks.generate(make_task, seed=3, train=40)


class BareEnv(Env):
    """A sound environment without tools, written on the contract itself."""

    tasks = Tasks.generate(make_task, seed=4, train=20, eval=10)
    limits = Limits(max_turns=3)

    async def areset(self, *, seed=None, options=None):
        task = self._begin(seed, options)
        self.turn = 0
        return (Message("user", f"Is {task.data['left']} more than {task.data['right']}?"),), {}

    async def astep(self, action):
        self.turn += 1
        said = Action.of(action).text
        right = said == ("yes" if self.task.data["left"] > self.task.data["right"] else "no")
        return (Message("user", "Again?"),), float(right), right, not right and self.turn >= 3, {}

    def oracle(self, messages):
        return "yes" if self.task.data["left"] > self.task.data["right"] else "no"


class TasksDifferUnseeded(Sound):
    tasks = Tasks.of(
        train=[{"left": random.randrange(100, 10**9), "right": 2} for _ in range(4)],
        eval=[{"left": 3, "right": 4}],
    )


class TasksDifferSetOrder(Sound):
    tasks = Tasks.of(train=[{"left": 1, "right": 2, "word": word} for word in {*WORDS}], eval=[{"left": 3, "right": 4}])


class TasksDifferGenerator(Sound):
    tasks = Tasks.generate(lambda rng: make_task(np.random.default_rng()), seed=3, train=40, eval=20)


class ToolRaisesOnNul(Sound):
    @tool
    def lookup(self, word: str) -> str:
        """Look a word up."""
        os.stat(f"/nowhere/{word}") if "\0" in word else None
        return "nothing"


class ToolRaisesOnLargeIntegers(Sound):
    @tool
    def right(self, scale: int = 1) -> int:
        """The second number."""
        return self.task.data["right"] * int(np.int64(scale) > 0)


class ToolRaisesLater(Sound):
    def start(self, task):
        self.asked = 0
        return Sound.start(self, task)

    @tool
    def left(self) -> int:
        """The first number, which may be asked for once."""
        self.asked += 1
        return [self.task.data["left"]][self.asked - 1]


class ToolRaisesExit(Sound):
    @tool
    def lookup(self, word: str) -> str:
        """Look a word up."""
        raise SystemExit(0)


class ToolFaultsOnSome(Sound):
    @tool
    def lookup(self, word: str) -> str:
        """Look a word up, on a server that answers 500 to some of them."""
        if not word.isascii():
            raise EnvFault("the server answered 500", who="server")
        return "nothing"


class ToolFaultsNetwork(Sound):
    @tool
    def lookup(self, word: str) -> str:
        """Look a word up."""
        raise ConnectionRefusedError("server unreachable")


class RaisesExit(Sound):
    def score(self, answer):
        raise SystemExit(0)


class RaisesExitInStep(Sound):
    async def astep(self, action):
        raise SystemExit(0)


class CannotMakeExit(Sound):
    def __init__(self, **options):
        raise SystemExit(0)


class OracleFailsExit(Sound):
    def oracle(self, messages):
        raise SystemExit(0)


class HangsInScore(Sound):
    def score(self, answer):
        threading.Event().wait(3600)


class HangsInAsyncScore(Sound):
    async def score(self, answer):
        await asyncio.Event().wait()


class HangsInAsyncStart(Sound):
    async def start(self, task):
        await asyncio.Event().wait()


class SoundNumpy(Sound):
    """Rewards and results of numpy's types are fine."""

    @tool
    def left(self) -> object:
        """The first number."""
        return np.int64(self.task.data["left"])

    def score(self, answer):
        self.success = np.bool_(answer == str(self.answer()))
        return np.float32(self.success)
