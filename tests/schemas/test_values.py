"""Drawn values fit the schema they were drawn from, judged by the validation that a call goes through."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentrl.schemas.values import draw_arguments, draw_value
from agentrl.tool_schema import Tool


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Item(BaseModel):
    code: Annotated[str, Field(min_length=3, max_length=5)]
    count: Annotated[int, Field(gt=2, le=8)]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def awkward(
    flag: bool,
    shade: Colour,
    colour: Literal["red", "blue", 3],
    share: Annotated[float, Field(ge=0.0, lt=1.0)],
    pair: tuple[int, str],
    items: Annotated[list[Item], Field(min_length=1, max_length=2)],
    tree: Node,
    prices: dict[str, float],
    even: Annotated[int, Field(multiple_of=4)],
    either: int | list[str] | None = None,
    note: str = "",
) -> None:
    """Everything at once."""


@pytest.mark.parametrize("seed", range(8))
def test_drawn_arguments_pass_validation(seed):
    tool = Tool.of(awkward)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        tool.validate(draw_arguments(tool.schema["function"]["parameters"], rng))


def test_the_awkward_values_are_reached_and_optional_ones_left_out():
    def f(n: int, text: str, word: str = "a") -> None:
        """Anything."""

    parameters = Tool.of(f).schema["function"]["parameters"]
    rng = np.random.default_rng(0)
    drawn: list[dict[str, Any]] = [draw_arguments(parameters, rng) for _ in range(300)]
    assert {0, -1, 10**20} <= {arguments["n"] for arguments in drawn}
    assert {"", "O'Brien", "two\nlines"} <= {arguments["text"] for arguments in drawn}
    assert {True, False} == {"word" in arguments for arguments in drawn}


@pytest.mark.parametrize("seed", range(4))
def test_odd_arguments_fit_the_schema_too(seed):
    tool = Tool.of(awkward)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        tool.validate(draw_arguments(tool.schema["function"]["parameters"], rng, odd=True))


def test_odd_values_are_what_code_is_least_prepared_for():
    def f(text: str, n: int, value: Any) -> None:
        """Anything."""

    parameters = Tool.of(f).schema["function"]["parameters"]
    rng = np.random.default_rng(0)
    drawn = [draw_arguments(parameters, rng, odd=True) for _ in range(300)]
    assert {"\x00", "../..", "NaN"} <= {arguments["text"] for arguments in drawn}
    assert {2**63, -(2**63) - 1, 2**31} <= {arguments["n"] for arguments in drawn}
    assert {str, int, float, bool, type(None), list, dict} == {type(arguments["value"]) for arguments in drawn}


def test_the_same_generator_state_draws_the_same():
    parameters = Tool.of(awkward).schema["function"]["parameters"]
    one, other = (draw_arguments(parameters, np.random.default_rng(5)) for _ in range(2))
    assert one == other


def drawn(schema: Mapping[str, Any], count: int = 60) -> list[Any]:
    rng = np.random.default_rng(3)
    return [draw_value(schema, rng) for _ in range(count)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(-50, 50), st.integers(0, 9), st.booleans())
def test_numbers_keep_their_bounds(seed, low, width, whole):
    schema = {"type": "integer" if whole else "number", "minimum": low, "maximum": low + width}
    value = draw_value(schema, np.random.default_rng(seed))
    assert low <= value <= low + width
    assert isinstance(value, int) == whole
    text = draw_value({"type": "string", "minLength": 5, "maxLength": 6}, np.random.default_rng(seed))
    assert 5 <= len(text) <= 6


@pytest.mark.parametrize(
    ("schema", "low", "high"),
    [
        ({"type": "integer", "minimum": 2.5, "maximum": 4.5}, 3, 4),
        ({"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 5}, 3, 4),
        ({"type": "integer", "minimum": 10**20}, 10**20, 10**20 + 100),
        ({"type": "integer", "maximum": -(10**20)}, -(10**20) - 100, -(10**20)),
        ({"type": "integer", "minimum": -(10**19), "maximum": 10**19}, -(10**19), 10**19),
        ({"type": "integer", "minimum": 6, "maximum": 14, "multipleOf": 5}, 10, 10),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-9}, 5e-324, 1e-9),
        ({"type": "number", "minimum": 3}, 3, 1e9),
    ],
)
def test_bounds_that_no_usual_number_meets(schema, low, high):
    values = drawn(schema)
    assert low <= min(values)
    assert max(values) <= high
    assert all(isinstance(value, int) for value in values) == (schema["type"] == "integer")


def test_numbers_between_the_awkward_ones_are_reached():
    assert {3, 4, 5, 6} <= set(drawn({"type": "integer", "minimum": 0, "maximum": 9}, 300))
    assert any(value not in (0, 1, 2, 7, 100) for value in drawn({"type": "integer", "minimum": 0}, 300))


def test_schemas_that_others_write():
    pointed = {"properties": {"a": {"$ref": "#/components/Count"}}, "components": {"Count": {"enum": [4]}}}
    assert {tuple(value.items()) for value in drawn(pointed)} == {(), (("a", 4),)}
    assert all(isinstance(value, str) for value in drawn({"$ref": "#/$defs/Nowhere"}))
    assert {len(value) for value in drawn({"type": "array", "minItems": 2, "maxItems": 3})} == {2, 3}
    assert drawn({"type": "array", "prefixItems": [{"const": 1}], "items": False}, 1) == [[1]]
    assert drawn({"type": "object", "properties": {"x": True}, "required": ["x"]}, 1)[0].keys() == {"x"}
    assert set(map(type, drawn({"type": ["integer", "null"]}))) == {int, type(None)}
    assert draw_arguments({}, np.random.default_rng(0)) == {}
