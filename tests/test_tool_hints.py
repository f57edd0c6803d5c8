"""What an author may write as a tool: every form of function and hint, and clear words for the others."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import inspect
import itertools
import json
import math
import typing
import warnings
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import pytest
from pydantic import BaseModel, Field
from typing_extensions import Doc

from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.tool_schema import Tool, tool
from tests.told import told

pytestmark = pytest.mark.filterwarnings("error")


def properties(function):
    return Tool.of(function).schema["function"]["parameters"]["properties"]


# Names.


@pytest.mark.parametrize("name", ["get weather", "a.b", "écrire", "x" * 65, "", "a/b", "<lambda>"])
def test_a_name_that_servers_refuse_is_refused(name):
    def f(a: int) -> int:
        return a

    with pytest.raises(ToolSchemaError, match=r"a tool cannot be called .*@tool\(name="):
        Tool.of(tool(name=name)(f))
    assert Tool.of(tool(name="x" * 64)(f)).name == "x" * 64


# Forms of functions.


class Adds:
    """Adds one."""

    def __call__(self, a: int) -> int:
        return a + 1


def times(n: int, k: int) -> int:
    """Multiplies.

    Args:
        n: the number.
    """
    return n * k


def test_partials_and_callable_objects():
    by_three = Tool.of(functools.partial(functools.partial(times, k=4), k=3))
    assert (by_three.name, by_three.description) == ("times", "Multiplies.")
    assert by_three.schema["function"]["parameters"]["properties"] == {
        "n": {"type": "integer", "description": "the number."}
    }
    assert told(by_three, n=5) == "15"
    assert told(by_three, n=5, k=1).startswith("Error: wrong arguments for times: k is not an argument.")
    made = Tool.of(Adds())
    assert (made.name, made.description, told(Adds(), a=1)) == ("Adds", "Adds one.", "2")


async def counted(n: int):
    """Yields."""
    for i in range(n):
        yield i


def endless():
    """Yields without end."""
    return itertools.count()


def test_generators_yield_lists_and_endless_ones_are_stopped():
    assert told(counted, n=3) == "[0, 1, 2]"
    for function, given in ((counted, {"n": 10_001}), (endless, {})):
        with pytest.raises(EnvFault, match="yields more than 10000 values"):
            told(function, **given)


def test_a_wrapper_shows_what_it_takes_itself():
    def inner(n: int, config: dict) -> str:
        return f"{n}{config}"

    @functools.wraps(inner)
    def outer(n: int) -> str:
        return inner(n, {})

    @functools.wraps(inner)
    def passes(*args: Any, **kwargs: Any) -> str:
        return inner(*args, **kwargs)

    @functools.wraps(inner)
    def signed(**kwargs: Any) -> str:
        return inner(config={}, **kwargs)

    number = inspect.Parameter("n", inspect.Parameter.KEYWORD_ONLY, annotation=int)
    signed.__signature__ = inspect.Signature([number])
    assert [list(properties(f)) for f in (outer, passes, signed)] == [["n"], ["n", "config"], ["n"]]
    assert told(outer, n=1) == "1{}"


def test_a_hint_of_the_result_need_not_be_resolvable():
    space: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef f(a: int) -> NotImported: return str(a)\n", space)
    assert told(space["f"], a=1) == "1"
    exec("from __future__ import annotations\ndef g(a: NotImported) -> int: return 1\n", space)
    with pytest.raises(ToolSchemaError, match="import or define that type at module level"):
        Tool.of(space["g"])


# Hints.


class Inner(TypedDict, total=False):
    x: int


class Outer(TypedDict):
    """Of the outer."""

    a: int
    b: NotRequired[str]
    inner: Inner


class Loop(TypedDict):
    again: list[Loop]


def test_typed_dicts_of_typing_nested_and_in_lists():
    def f(s: list[Outer], t: Outer | None = None) -> str:
        return json.dumps([s, t])

    shown = properties(f)["s"]["items"]
    assert (shown["required"], shown["additionalProperties"]) == (["a", "inner"], False)
    assert shown["properties"]["inner"]["properties"] == {"x": {"type": "integer"}}
    assert told(f, s=[{"a": 1, "inner": {}}]) == '[[{"a": 1, "inner": {}}], null]'
    assert "zz is not an argument" in told(f, s=[{"a": 1, "inner": {"zz": 1}}])
    assert "s[0].a is missing" in told(f, s=[{"inner": {}}])

    def g(loop: Loop) -> str:
        return ""

    with pytest.raises(ToolSchemaError, match="parameter 'loop': Loop refers to itself"):
        Tool.of(g)


def test_descriptions_in_annotations_count_before_the_docstring():
    def f(
        a: Annotated[str, "the city"],
        b: Annotated[int, Field(ge=1, description="count")] = 1,
        c: Annotated[int, Doc("a doc")] = 1,
        d: Annotated[int, 5] = 1,
    ) -> str:
        """Does.

        Args:
            a: not this.
            d: this.
        """
        return a

    assert [item["description"] for item in properties(f).values()] == ["the city", "count", "a doc", "this."]
    assert properties(f)["b"]["minimum"] == 1


def test_a_default_of_none_lets_null_in():
    def f(a: int = None, b: list[int] = None, c: Optional[int] = None, d: Annotated[int, "n"] = None) -> str:  # noqa: RUF013, UP045
        return repr((a, b, c, d))

    assert told(f, a=None, b=None, c=None, d=None) == "(None, None, None, None)"
    assert told(f, a=1, b=[2], c=3, d=4) == "(1, [2], 3, 4)"
    assert properties(f)["c"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]


@dataclasses.dataclass
class Window:
    """With an open end."""

    end: float = math.inf


def test_a_schema_is_always_json():
    def f(
        a: float = math.inf,
        b: float = math.nan,
        c: Any = object(),  # noqa: B008
        d: Annotated[float, Field(le=math.inf)] = 1.0,
        e: Window = Window(),  # noqa: B008
        default: float = math.inf,
    ) -> str:
        return f"{a} {b} {e.end} {default}"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = Tool.of(f).schema
    json.dumps(schema, allow_nan=False)
    assert "default" in schema["function"]["parameters"]["properties"]
    assert told(f) == "inf nan inf inf"


class Day(enum.Enum):
    FIRST = datetime.date(2026, 1, 1)
    LAST = datetime.date(2026, 12, 31)


class Size(enum.Enum):
    SMALL = 0.5
    LARGE = "l"


class Odd(enum.Enum):
    NAN = math.nan


class Pair(enum.Enum):
    A = (1, 2)


def test_what_an_enum_shows_is_what_it_takes():
    def f(d: Day, s: list[Size], o: Literal[Day.FIRST, "never"] = "never") -> str:
        return f"{d.name} {[x.name for x in s]} {o if o == 'never' else o.name}"

    assert properties(f)["d"]["enum"] == ["2026-01-01", "2026-12-31"]
    assert told(f, d="2026-12-31", s=[0.5, "l"], o="2026-01-01") == "LAST ['SMALL', 'LARGE'] FIRST"
    assert "d should be" in told(f, d="2026-12-30", s=[])
    assert "d should be" in told(f, d=[1], s=[])
    for bad in (Odd, Pair):

        def g(o) -> str:
            return ""

        g.__annotations__["o"] = bad
        with pytest.raises(ToolSchemaError, match=r"parameter 'o': .* cannot be written as one JSON value"):
            Tool.of(g)


class Point(BaseModel):
    x: int


@pytest.mark.parametrize(
    ("hint", "value", "seen"),
    [
        (tuple[float, float], [1, 2], "(1.0, 2.0)"),
        (Literal["x", 1, None], None, "None"),
        (dict[str, list[int]], {"a": [1]}, "{'a': [1]}"),
        (list[Point], [{"x": 1}], "[Point(x=1)]"),
        (typing.Union[int, str], "a", "'a'"),  # noqa: UP007
        (str, "007", "'007'"),
        (str, "null", "'null'"),
        (bool, "false", "False"),
        (set[int], [1, 1], "{1}"),
    ],
    ids=str,
)
def test_values_reach_the_function_as_their_hint_says(hint, value, seen):
    def f(a) -> str:
        return repr(a)

    f.__annotations__["a"] = hint
    assert told(f, a=value) == seen


def test_a_default_is_fresh_each_time():
    def f(a: list[int] = []) -> str:  # noqa: B006
        a.append(1)
        return str(len(a))

    assert [told(f) for _ in range(3)] == ["1"] * 3
    made = Tool.of(f)
    with pytest.raises(ToolError, match="wrong arguments for f: a should be a valid list"):
        made.validate({"a": "[1]"})
