"""Schemas from hints and docstrings, validation of calls, and messages that a model can act on."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
import warnings
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field, create_model

from agentrl.errors import ToolError, ToolSchemaError
from agentrl.tool_schema import Tool, is_tool, parse_docstring, tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


class Box(BaseModel):
    size: Size
    tags: list[str] = []


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


def order(
    item: str,
    count: Annotated[int, Field(ge=1, le=9, description="pieces")] = 1,
    colour: Colour = Colour.RED,
    speed: Literal["slow", "fast"] = "slow",
    note: str | None = None,
    old: Optional[int] = None,  # noqa: UP045
    sizes: list[Size] = [],  # noqa: B006
    point: tuple[int, str] = (0, ""),
    prices: dict[str, float] = {},  # noqa: B006
    box: Box | None = None,
) -> str:
    """Order an item.

    It cannot be undone.

    Args:
        item: what to order,
            in one word
        count: ignored, the annotation says it
        note (str): a note: for the courier

    Returns:
        item: the order number
    """
    return item


def parameters(function: Any) -> dict[str, Any]:
    return Tool.of(function).schema["function"]["parameters"]


def test_the_schema_of_every_kind_of_hint():
    size = {
        "type": "object",
        "properties": {"width": {"type": "integer"}, "height": {"type": "integer", "default": 1}},
        "required": ["width"],
        "additionalProperties": False,
    }
    box = {
        "type": "object",
        "properties": {"size": size, "tags": {"type": "array", "items": {"type": "string"}, "default": []}},
        "required": ["size"],
        "additionalProperties": False,
    }
    assert parameters(order) == {
        "type": "object",
        "properties": {
            "item": {"type": "string", "description": "what to order, in one word"},
            "count": {"type": "integer", "minimum": 1, "maximum": 9, "description": "pieces", "default": 1},
            "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "speed": {"type": "string", "enum": ["slow", "fast"], "default": "slow"},
            "note": {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "default": None,
                "description": "a note: for the courier",
            },
            "old": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "sizes": {"type": "array", "items": size, "default": []},
            "point": {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
                "default": [0, ""],
            },
            "prices": {"type": "object", "additionalProperties": {"type": "number"}, "default": {}},
            "box": {"anyOf": [box, {"type": "null"}], "default": None},
        },
        "required": ["item"],
        "additionalProperties": False,
    }
    assert Tool.of(order).schema["function"]["description"] == "Order an item.\n\nIt cannot be undone."


def test_a_recursive_type_keeps_its_definition():
    def plant(tree: Tree) -> None:
        """Plant."""

    plant.__annotations__["tree"] = Tree
    schema = parameters(plant)
    assert schema["properties"]["tree"] == {"$ref": "#/$defs/Tree"}
    assert schema["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}


def test_a_property_named_title_stays():
    def book(title: str, default: int = 3) -> None:
        """Book."""

    schema = parameters(book)
    assert schema["properties"] == {"title": {"type": "string"}, "default": {"type": "integer", "default": 3}}


def test_values_are_built_and_defaults_filled():
    made = Tool.of(order).validate(
        {"item": "tea", "colour": "blue", "sizes": [{"width": "2"}], "box": {"size": {"width": 3}}}
    )
    assert made["colour"] is Colour.BLUE
    assert made["sizes"] == [Size(2, 1)]
    assert made["box"] == Box(size=Size(3))
    assert (made["count"], made["note"], made["point"]) == (1, None, (0, ""))
    assert list(made) == ["item", "count", "colour", "speed", "note", "old", "sizes", "point", "prices", "box"]


def test_a_mutable_default_is_fresh_in_every_call():
    found = Tool.of(order)
    found.validate({"item": "a"})["sizes"].append(1)
    assert found.validate({"item": "a"})["sizes"] == []


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "wrong arguments for order: item is missing"),
        ({"itm": "tea", "item": "x"}, "wrong arguments for order: itm is not an argument. Did you mean 'item'?"),
        (
            {"item": "tea", "count": "many"},
            "wrong arguments for order: count should be a valid integer, "
            "unable to parse string as an integer, got 'many'",
        ),
        ({"item": "tea", "count": 0}, "wrong arguments for order: count should be greater than or equal to 1, got 0"),
        ({"item": "a", "speed": "warp"}, "wrong arguments for order: speed should be 'slow' or 'fast', got 'warp'"),
        ({"item": 5}, "wrong arguments for order: item should be a valid string, got 5"),
        ({"item": "a", "sizes": [{"height": 2}]}, "wrong arguments for order: sizes[0].width is missing"),
        ({"item": "a", "note": 5}, "wrong arguments for order: note should be a valid string, got 5"),
    ],
)
def test_what_the_model_reads_about_wrong_arguments(given, text):
    with pytest.raises(ToolError) as caught:
        Tool.of(order).validate(given)
    assert str(caught.value) == text


def test_a_long_value_is_cut_and_few_reasons_are_given():
    with pytest.raises(ToolError) as caught:
        Tool.of(order).validate({"item": "a", "count": "x" * 5000, **{f"odd{i}": 1 for i in range(20)}})
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def f(x): ...", "tool f: parameter 'x' has no type hint; write `x: str`"),
        ("def f(*x: int): ...", r"tool f: \*x has no JSON schema; name each parameter"),
        ("def f(**x: int): ...", r"tool f: \*x has no JSON schema"),
        ("def f(x: int, /): ...", "tool f: parameter 'x' is positional-only"),
        ("def f(x: 'Nowhere'): ...", "tool f: a type hint cannot be resolved: name 'Nowhere'"),
        ("import threading\ndef f(x: threading.Lock): ...", "tool f: a type hint has no JSON schema"),
        ("from typing import Callable\ndef f(x: Callable[[], int]): ...", "tool f: a type hint has no JSON schema"),
        ("def f(_x: int): ...", "tool f: '_x' cannot be the name of a parameter"),
    ],
)
def test_a_function_that_cannot_be_a_tool_says_why(source, text):
    names: dict[str, Any] = {}
    exec(source, names)
    with pytest.raises(ToolSchemaError, match=text):
        Tool.of(names["f"])


def test_names_that_pydantic_uses_itself_are_fine_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def save(json: str, copy: int, schema: str = "s", model_name: str = "m") -> str:
            """Save."""
            return json

        assert Tool.of(save).validate({"json": "{}", "copy": 1}) == {
            "json": "{}",
            "copy": 1,
            "schema": "s",
            "model_name": "m",
        }


def test_the_decorator_marks_and_names():
    @tool(name="look-up", timeout_s=2.0)
    def lookup(word: str) -> str:
        """Look up."""
        return word

    made = Tool.of(lookup)
    assert (made.name, made.timeout_s, made.blocking, made.is_inline) == ("look-up", 2.0, True, False)
    assert is_tool(lookup)
    assert not is_tool(order)
    assert lookup("tea") == "tea"


def test_an_async_tool_is_never_moved_to_a_thread():
    @tool(timeout_s=2.0)
    async def lookup(word: str) -> str:
        """Look up."""
        return word

    made = Tool.of(lookup)
    assert (made.is_async, made.blocking, made.is_inline) == (True, False, False)


@pytest.mark.parametrize("first", ["", "import agentrl.tool_schema;", "import agentrl.env.tool_env;"])
def test_tool_from_the_package_is_the_decorator_whatever_was_imported_before(first):
    code = f"{first}\nfrom agentrl import tool\n@tool\ndef f(x: int): 'doc'\n@tool(name='g')\ndef g(x: int): 'doc'\n"
    code += "from agentrl.tool_schema import Tool; print(Tool.of(f).name, Tool.of(g).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "f g\n"


def test_docstring_sections():
    text = "Sum.\n\nMore.\n\nArgs:\n    a: first\n        goes on\n    b (int): second: with colon\nRaises:\n    c: no"
    assert parse_docstring(text) == ("Sum.\n\nMore.", {"a": "first goes on", "b": "second: with colon"})
    assert parse_docstring("Args: x: one") == ("", {"x": "one"})
    assert parse_docstring("") == ("", {})


NUMPY = """Sum.

More.

Parameters
----------
x : int
    The x,
    in metres.
y, z : str, optional
    Both.

Returns
-------
int
    The sum.
"""
SPHINX = """Sum.

More.

:param int x: The x,
    in metres.
:param y: Both.
:param z: Both.
:type z: str
:returns: The sum.
:raises ValueError: If not.
"""


@pytest.mark.parametrize("text", [NUMPY, SPHINX])
def test_docstrings_in_numpy_and_sphinx_form(text):
    assert parse_docstring(text) == ("Sum.\n\nMore.", {"x": "The x, in metres.", "y": "Both.", "z": "Both."})


def test_docstrings_that_are_not_quite_of_a_form():
    assert parse_docstring("Sum.\n\nArgs:\n    a: first,\n    goes on\nRaises: ToolError if not.") == (
        "Sum.",
        {"a": "first, goes on"},
    )
    assert parse_docstring("Sum.\n\nReturns\n-------\nint\n    The sum.") == ("Sum.", {})
    for text in ("Shows\n:smile: and\n:frown: signs.", ":-) is a smile.", "Parameters\nare free."):
        assert parse_docstring(text) == (text, {})


class Limits(BaseModel):
    low: float = 0.0
    high: float = float("inf")


def anything(
    text: str = "",
    count: int = 0,
    share: float = 0.0,
    value: Any = None,
    table: dict[str, Any] = {},  # noqa: B006
    limits: Limits | None = None,
    shares: list[float] = [],  # noqa: B006
    most: float = float("inf"),
) -> str:
    """Take anything."""
    return text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "\ud800"}, "text holds \\ud800, which is half of a character: write whole characters"),
        ({"value": {"a": ["\ud800"]}}, "value holds \\ud800"),
        ({"table": {"\ud800": 1}}, "table holds \\ud800"),
        ({"share": float("nan")}, "share holds nan: a number must be finite"),
        ({"value": [float("inf")]}, "value holds inf: a number must be finite"),
        ({"share": "NaN"}, "share should be a finite number, got 'NaN'"),
        ({"shares": ["-Infinity"]}, "shares[0] should be a finite number, got '-Infinity'"),
        ({"limits": {"low": "NaN"}}, "limits must hold finite numbers only"),
        ({"count": 10**400}, "count holds an integer of more than 1023 bits"),
        ({"text": "x" * 2_000_000}, "text is too long: a call takes at most 1048576 characters"),
        ({"x" * 100_000: 1}, "is not an argument."),
        ([1], "they must be an object, got list"),
        (None, "they must be an object, got NoneType"),
    ],
    ids=range(13),
)
def test_arguments_are_made_safe_before_any_schema_is_asked(arguments, message):
    with pytest.raises(ToolError) as caught:
        Tool.of(anything).validate(arguments)
    text = str(caught.value)
    assert text.startswith("wrong arguments for anything: ")
    assert message in text
    assert len(text) < 500
    text.encode()


def test_a_hand_built_tool_is_no_exception():
    made = create_model("raw", p0=(Any, Field(alias="where")))
    raw = Tool("raw", "Anything at all.", made, lambda p0: p0)
    with pytest.raises(ToolError, match=r"wrong arguments for raw: where holds \\ud800"):
        raw.validate({"where": "\ud800"})
    assert raw.validate({"where": "NaN"}) == {"p0": "NaN"}


def test_defaults_may_be_infinite_and_text_may_say_nan():
    given = Tool.of(anything).validate({"text": "NaN", "value": "Infinity", "limits": {"low": 1}, "count": 2**70})
    assert (given["most"], given["limits"].high, given["value"]) == (float("inf"), float("inf"), "Infinity")
    assert given["count"] == 2**70


def test_a_tool_may_say_that_its_calls_run_at_the_same_time():
    @tool(parallel=True)
    def look() -> None:
        """Look."""

    assert Tool.of(look).parallel
    assert not Tool.of(order).parallel
