"""Anything that a model can write and an author can return, against tools, schemas and what is shown.

A few examples of each run with the tests. `make fuzz EXAMPLES=5000` tries more; there, an example that takes longer
than a second fails as well.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import os
import resource
import string
from contextlib import suppress
from inspect import Parameter, Signature
from keyword import iskeyword
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, tools_of
from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.messages import Action, ToolCall
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.json_lines import decode_line, encode_exact_line, encode_line
from agentrl.rollout.records import needs_exact_numbers, trajectory_from_json, trajectory_record
from agentrl.rollout.runner import rollout
from agentrl.safe_json import for_terminal
from agentrl.schemas.values import draw_arguments
from agentrl.tool_schema import Tool, tool
from agentrl.wire.redaction import Redactor

ASKED = os.environ.get("AGENTRL_FUZZ")
MOST_GROWTH_BYTES = 64 << 20
fuzzed = settings(
    max_examples=int(ASKED or 40),
    deadline=1000 if ASKED else None,
    suppress_health_check=list(HealthCheck),
)

ODD_TEXTS = ["\ud800", "\x00", "9" * 5000, "\u202e", "../.."]
texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["\ud800", "\x00", "9" * 5000, "\u202e", "../.."]
)
numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**200), 10**400, 1e308])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


class Colour(enum.Enum):
    RED = "r"
    DAY = datetime.date(2026, 1, 1)


class Part(TypedDict):
    name: str
    size: NotRequired[float]


class Desk(ToolEnv):
    """One tool for each kind of hint."""

    tasks = Tasks.of(train=[{}])

    def start(self, task):
        return "go"

    @tool
    def plain(self, text: str = "", number: int = 0, share: float = 0.0, flag: bool = False) -> str:
        """Plain values."""
        return f"{text}{number}{share}{flag}"

    @tool
    def nested(self, parts: list[Part], table: dict[str, list[int]] | None = None, any: Any = None) -> Any:
        """Nested values."""
        return {"parts": parts, "table": table, "any": any}

    @tool
    def narrow(self, colour: Colour, day: datetime.date | None = None, money: decimal.Decimal | None = None) -> str:
        """Narrow values."""
        return f"{colour} {day} {money}"

    @tool
    async def later(self, number: Annotated[int, Field(ge=0, lt=10)] | Literal["none"]) -> Any:
        """Waits."""
        return number

    def score(self, answer):
        return 1.0


NAMES = ["plain", "nested", "narrow", "later", "nothing"]
argument_names = st.sampled_from(["text", "number", "share", "flag", "parts", "table", "any", "colour", "day", "money"])
arguments = st.dictionaries(argument_names | texts, json_values, max_size=4)


def step(action):
    """One step, which must not need much memory."""
    env, before = Desk(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    env.reset(seed=0)
    try:
        return env.step(action)
    finally:
        env.close()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < MOST_GROWTH_BYTES, f"grew by {grown >> 20} MB"


@fuzzed
@given(st.lists(st.builds(ToolCall, st.sampled_from(NAMES) | texts, arguments, texts), min_size=1, max_size=4))
def test_any_call_is_answered_and_can_be_stored(calls):
    messages, *_ = step(Action(tool_calls=tuple(calls)))
    assert len(messages) == len(calls)
    for message in messages:
        json.dumps(message.to_openai(), allow_nan=False, ensure_ascii=False).encode()
    assert len({message.tool_call_id for message in messages}) == len(calls)


openai_calls = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "type": json_values,
        "function": json_values
        | st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(NAMES) | json_values,
                "arguments": json_values | texts | arguments.map(repr),
            },
        ),
    },
)


@fuzzed
@given(texts | st.none(), st.lists(openai_calls, max_size=3) | json_values)
def test_any_openai_message_becomes_an_action_that_is_scored(text, calls):
    try:
        action = Action.of({"role": "assistant", "content": text, "tool_calls": calls})
    except (ValueError, TypeError):  # said to the program that gave it
        return
    (group,) = rollout(Desk, ScriptedPolicy([action, "done"]), max_attempts=1)
    (episode,) = group.trajectories
    assert episode.status == "terminated"
    record = trajectory_record(episode)
    line = (encode_exact_line if needs_exact_numbers(record) else encode_line)(record)
    assert trajectory_from_json(decode_line(line)).reward == episode.reward


hints = st.recursive(
    st.sampled_from([str, int, float, bool, Any, Part, Colour, datetime.date, decimal.Decimal, bytes, type(None)])
    | st.lists(st.text(string.ascii_letters, min_size=1), min_size=1, max_size=3, unique=True).map(
        lambda words: Literal[tuple(words)]
    )
    | st.builds(lambda low: Annotated[float, Field(ge=low), "a text"], st.floats()),
    lambda inner: (
        inner.map(lambda hint: list[hint])
        | inner.map(lambda hint: dict[str, hint])
        | inner.map(lambda hint: hint | None if hint is not None else None)
        | st.tuples(inner, inner).map(lambda pair: tuple[pair])
    ),
    max_leaves=4,
)
defaults = st.just(...) | st.none() | numbers | texts | st.builds(SimpleNamespace)


@fuzzed
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True).filter(lambda name: not iskeyword(name)),
        st.tuples(hints, defaults),
        max_size=4,
    ),
    st.data(),
)
def test_any_hints_make_a_schema_that_is_json_or_are_refused(parameters, data):
    def f(**given):
        return given

    f.__signature__ = Signature(
        [
            Parameter(name, Parameter.KEYWORD_ONLY, default=Parameter.empty if default is ... else default)
            for name, (_, default) in parameters.items()
        ]
    )
    f.__annotations__ = {name: hint for name, (hint, _) in parameters.items()}
    try:
        made = Tool.of(f)
        schema = made.schema["function"]["parameters"]
    except ToolSchemaError:
        return
    json.dumps(schema, allow_nan=False)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    with suppress(ToolError):
        made.validate(draw_arguments(schema, rng, odd=data.draw(st.booleans())))


class Refuses:
    """Can be asked nothing."""

    def __iter__(self):
        raise RuntimeError("no")

    tolist = model_dump = __str__ = __len__ = __iter__


returned = st.recursive(
    st.none()
    | st.booleans()
    | numbers
    | texts
    | st.binary()
    | st.dates()
    | st.decimals()
    | st.sampled_from(
        [np.float32(math.nan), np.arange(3), {1, "a"}, Colour.RED, Refuses(), object(), range(3), iter("ab"), 1j]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | numbers | st.dates(), inner, max_size=3),
    max_leaves=12,
)


@fuzzed
@given(returned)
def test_any_result_of_a_tool_is_text_or_a_fault_of_its_author(value):
    class One(Desk):
        @tool
        def give(self) -> Any:
            return value

    env = One()
    env.reset(seed=0)
    assert "give" in tools_of(env)
    fault = None
    try:
        env.step(Action(tool_calls=(ToolCall("give"),)))
    except EnvFault as error:
        fault = error
    assert fault is None or fault.at == "author"


@fuzzed
@given(texts, st.lists(texts, max_size=3))
def test_any_text_is_redacted_and_shown(text, secrets):
    hidden = Redactor(secrets).text(text, cut_off=True)
    assert isinstance(hidden, str)
    shown = for_terminal(text)
    shown.encode()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert for_terminal(shown) == shown
