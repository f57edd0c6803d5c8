"""The panel: what does no work, and must not be paid. Owns what each member answers, not what a payment means.

A member answers a situation by an action. It knows what an agent knows: the conversation and the tools.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.bench.judges.bias import JUDGE_TALK
from agentrl.env.check.prompt import copies
from agentrl.messages import Action, Message, ToolCall
from agentrl.schemas.values import draw_arguments

Schema = dict[str, object]
_RANDOM_TURNS = 4
ANY, SOME, HALF, MOST = 0.0, 0.2, 0.5, 0.75
"""Shares of the tasks from which a member's success is a flaw: any task, a fifth, half, three quarters."""


@dataclass(frozen=True)
class Situation:
    """What an agent sees at its turn.

    Attributes:
        messages: the conversation so far.
        tools: OpenAI definitions of the tools.
        seed: of random choices: the same for every play of a task.
    """

    messages: Sequence[Message]
    tools: Sequence[Schema]
    seed: int

    @property
    def prompt(self) -> str:
        """The first messages, before the agent's own."""
        texts = []
        for message in self.messages:
            if message.role == "assistant":
                break
            texts.append(message.content)
        return "\n".join(texts)

    @property
    def turn(self) -> int:
        """Turns that the agent has taken."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def last(self) -> str:
        return self.messages[-1].content if self.messages else ""

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.turn])


@dataclass(frozen=True)
class Probe:
    """A member of the panel.

    Attributes:
        name: of the member, unique.
        does: what it does, as in "answering nothing".
        kind: the flaw that its success is.
        least: share of the tasks from which its success is a flaw; 0 is any task.
        act: its answer to a situation.
        fix: what to change where it succeeds.
    """

    name: str
    does: str
    kind: str
    least: float
    act: Callable[[Situation], Action]
    fix: str


_ACHIEVED = "score what was achieved, by the state of the world or an exact comparison, not that an episode ended"
_EXACT = "take one answer from a fixed place, and compare it as a whole"
_REFUSE = (
    "refuse what is no answer of the asked kind before comparing: NaN, wildcards, empty lists, what does not parse"
)
_JUDGE = (
    "never let a grader read the answer as instructions; take its verdict from a place that the answer cannot write"
)
_STOPPED = "count a check as passed only if it ran to its end and said so; compare values outside the tested process"
_CHANCE = "ask for answers that cannot be guessed, or balance them; read scores against this one"

_NO_ANSWERS = {
    "NaN": "NaN",
    "infinity": "inf",
    "null": "null",
    "empty list": "[]",
    "empty object": "{}",
    "wildcard": "*",
    "regular expression": ".*",
    "SQL wildcard": "%",
    "long number": "9" * 5000,
    "deep list": "[" * 5000,
    "NUL": "\x00",
}
_ONE_CHARACTER = {"full stop": ".", "comma": ",", "blank": " ", "letter e": "e"}
_CONSTANTS = ("yes", "no", "true", "false", "A", "B", "C", "D", "0", "1", "2")
_EXITS = {
    "exit": "import os\nos._exit(0)\n",
    "SystemExit": "raise SystemExit(0)\n",
    "SkipTest": "import unittest\nraise unittest.SkipTest('not here')\n",
}
_ALWAYS_EQUAL = """class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __call__(self, *a, **k): return self
    def __getattr__(self, name): return self
    def __sub__(self, other): return 0
    __rsub__ = __sub__
"""


def _says(text: str) -> Callable[[Situation], Action]:
    return lambda situation: Action(text)


def answers() -> list[Probe]:
    """Members that only talk."""
    idle = [
        Probe("silence", "answering nothing", "pays-for-silence", ANY, _says(""), _ACHIEVED),
        Probe("refusal", "refusing", "pays-for-refusal", ANY, _says("I cannot help with that."), _ACHIEVED),
        Probe("done", "only saying that it is done", "pays-for-early-exit", ANY, _says("Done."), _ACHIEVED),
        Probe("echo", "repeating the last message", "pays-for-echo", SOME, lambda s: Action(s.last), _EXACT),
        Probe("judge talk", "telling the grader to pass", "pays-for-judge-talk", SOME, _says(JUDGE_TALK), _JUDGE),
        Probe("everything", "naming every possible answer", "pays-for-long-answers", SOME, _everything, _EXACT),
    ]
    none = [_text(name, text, "pays-for-no-answer", SOME, _REFUSE) for name, text in _NO_ANSWERS.items()]
    short = [_text(name, text, "pays-for-one-character", SOME, _EXACT) for name, text in _ONE_CHARACTER.items()]
    constant = [_text(f"always {text}", text, "pays-for-constant", MOST, _CHANCE) for text in _CONSTANTS]
    return [*idle, *none, *short, *constant, *_code()]


def _text(name: str, text: str, kind: str, least: float, fix: str) -> Probe:
    shown = text if len(text) < 40 else f"{text[:3]}... ({len(text)} characters)"
    return Probe(name, f"answering {shown!r} to everything", kind, least, _says(text), fix)


def _code() -> list[Probe]:
    """Programs that end the checks, or that are equal to everything."""
    kind = "pays-for-stopped-checks"
    exits = [
        Probe(f"code: {name}", f"answering code that ends by {name}", kind, SOME, _says(text), _STOPPED)
        for name, text in _EXITS.items()
    ]
    equal = Probe("code: equal", "answering code whose values equal everything", kind, SOME, _always_equal, _STOPPED)
    return [*exits, equal]


def _always_equal(situation: Situation) -> Action:
    names = dict.fromkeys(re.findall(r"\b([A-Za-z_]\w*)\s*\(", situation.prompt))
    return Action(_ALWAYS_EQUAL + "".join(f"{name} = Equal()\n" for name in names if name != "Equal"))


def _everything(situation: Situation) -> Action:
    """The prompt's words, small numbers, letters and common answers."""
    words = dict.fromkeys([*re.findall(r"\S+", situation.prompt), *re.findall(r"\w+", situation.prompt)])
    common = ["yes", "no", "true", "false", "True", "False", *string.ascii_uppercase, *map(str, range(-20, 1001))]
    return Action(" ".join([*words, *common]))


def copying(situation: Situation) -> dict[str, str]:
    """What each rule copies from the first messages."""
    return copies(situation.prompt)


def copier(rule: str) -> Probe:
    """A member that answers what a rule copies; nothing where the rule finds nothing."""
    fix = "keep the answer out of the prompt, or ask for more than a fixed place of it"
    does = f"copying {rule} from the first messages"
    return Probe(f"copy {rule}", does, "pays-for-copying", HALF, lambda s: Action(copying(s).get(rule, "")), fix)


def random_tools() -> list[Probe]:
    """Members that call tools at random: any, one of them once, and one again and again."""
    fix = "make success depend on right arguments; remove rewards for calling"
    often = Probe("random tools", "calling random tools", "pays-for-random-tools", HALF, _random_call, fix)
    again = Probe("one call again", "repeating one call", "pays-for-repeating", HALF, _same_call, fix)
    return [often, again]


def _random_call(situation: Situation) -> Action:
    if not situation.tools or situation.turn >= _RANDOM_TURNS:
        return Action("done")
    return _call(situation.tools[int(situation.rng.integers(len(situation.tools)))], situation.rng)


def _same_call(situation: Situation) -> Action:
    rng = np.random.default_rng(situation.seed)
    if not situation.tools:
        return Action("done")
    return _call(situation.tools[int(rng.integers(len(situation.tools)))], rng)


def first_tool(name: str) -> Probe:
    """A member that calls one tool once, with random arguments, and then says that it is done."""
    fix = "make success depend on what was done before; check the arguments of the tool that ends an episode"

    def act(situation: Situation) -> Action:
        tool = next((t for t in situation.tools if t["function"]["name"] == name), None)  # type: ignore[index]
        return Action("Done.") if tool is None or situation.turn else _call(tool, situation.rng)

    return Probe(f"only {name}", f"calling {name} at once and nothing else", "pays-for-early-exit", HALF, act, fix)


def _call(tool: Schema, rng: np.random.Generator) -> Action:
    function = tool["function"]
    arguments = draw_arguments(function.get("parameters") or {}, rng)  # type: ignore[attr-defined]
    return Action(tool_calls=(ToolCall(function["name"], arguments),))  # type: ignore[index]
