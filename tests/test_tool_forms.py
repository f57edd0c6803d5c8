"""Forms of tools that users bring from other frameworks: methods, hints of the standard library, aliases."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import unicodedata
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar

import pytest
from pydantic import BaseModel, Field

from agentrl.tool_schema import Tool
from tests.told import told


def parameters(function: Any) -> dict[str, Any]:
    found: dict[str, Any] = Tool.of(function).schema["function"]["parameters"]
    return found


class Sums:
    def plus(self, a: int) -> int:
        """Adds one."""
        return a + 1

    @classmethod
    def twice(cls, a: int) -> int:
        """Doubles."""
        return 2 * a

    @staticmethod
    def minus(a: int) -> int:
        """Subtracts one."""
        return a - 1


@pytest.mark.parametrize(("method", "seen"), [(Sums().plus, "6"), (Sums.twice, "10"), (Sums.minus, "4")])
def test_methods_bound_to_an_object_or_a_class_and_static_ones(method, seen):
    assert list(parameters(method)["properties"]) == ["a"]
    assert told(method, a=5) == seen


def test_a_plain_function_may_call_its_parameters_self_or_cls():
    def f(cls: str, this: str, schema: str, json: int, copy: int, name: str, args: str, kwargs: str) -> str:
        return f"{cls}{this}{schema}{json}{copy}{name}{args}{kwargs}"

    given = {"cls": "c", "this": "t", "schema": "s", "json": 1, "copy": 2, "name": "n", "args": "a", "kwargs": "k"}
    assert told(f, **given) == "cts12nak"


def test_a_hint_may_be_written_as_text():
    def f(a: "int", b: "list[str]") -> "str":  # noqa: UP037
        return str(a) + b[0]

    assert parameters(f)["properties"]["b"] == {"type": "array", "items": {"type": "string"}}
    assert told(f, a=1, b=["x"]) == "1x"


class Place(NamedTuple):
    lat: float
    lon: float = 0.0


class Code(enum.IntEnum):
    ONE = 1


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    item: T


class Mail(BaseModel):
    sender: str = Field(alias="from")


@pytest.mark.parametrize(
    ("hint", "value", "seen"),
    [
        (Place, [1, 2], "Place(lat=1.0, lon=2.0)"),
        (datetime.date, "2026-01-02", "datetime.date(2026, 1, 2)"),
        (datetime.datetime, "2026-01-02T03:04:05", "datetime.datetime(2026, 1, 2, 3, 4, 5)"),
        (datetime.timedelta, "PT1H", "datetime.timedelta(seconds=3600)"),
        (decimal.Decimal, "1.5", "Decimal('1.5')"),
        (uuid.UUID, str(uuid.UUID(int=1)), repr(uuid.UUID(int=1))),
        (bytes, "abc", "b'abc'"),
        (pathlib.Path, "/tmp/x", repr(pathlib.Path("/tmp/x"))),
        (Code, 1, "<Code.ONE: 1>"),
        (Literal[True], True, "True"),
        (Box[int], {"item": 3}, "Box[int](item=3)"),
        (Mail, {"from": "a"}, "Mail(sender='a')"),
        (int, 2.0, "2"),
        (int, "2", "2"),
        (float, "1e3", "1000.0"),
        (str, "12", "'12'"),
        (str, '{"a": 1}', "'{\"a\": 1}'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_of_json_becomes_what_the_hint_says(hint, value, seen):
    def f(a) -> str:
        return repr(a)

    f.__annotations__["a"] = hint
    assert told(f, a=value) == seen


@pytest.mark.parametrize(
    ("hint", "value"),
    [(int, 2.5), (bool, "perhaps"), (str, 5), (list[int], "[1, 2]"), (Mail, '{"from": "a"}')],
    ids=str,
)
def test_a_value_that_does_not_fit_is_told_to_the_model(hint, value):
    def f(a) -> str:
        return repr(a)

    f.__annotations__["a"] = hint
    assert told(f, a=value).startswith("Error: wrong arguments for f: a")


def test_a_default_that_json_does_not_have_is_shown_in_its_json_form():
    def f(code: Code = Code.ONE, place: Place = Place(1.0)) -> str:  # noqa: B008
        return f"{code!r} {place!r}"

    assert parameters(f)["properties"]["code"]["default"] == 1
    assert told(f) == "<Code.ONE: 1> Place(lat=1.0, lon=0.0)"


def test_optional_without_a_default_is_required_and_takes_null():
    def f(a: Optional[int], b: Optional[int] = None) -> str:  # noqa: UP045
        return f"{a},{b}"

    assert parameters(f)["required"] == ["a"]
    assert told(f, a=None) == "None,None"


def test_a_parameter_is_shown_under_its_alias():
    def f(from_: Annotated[str, Field(alias="from")]) -> str:
        return from_

    assert list(parameters(f)["properties"]) == ["from"]
    assert told(f, **{"from": "x"}) == "x"


def test_names_beyond_ascii_and_their_spelling():
    def f(größe: int, city: str = "") -> str:
        return f"{größe}{city}"

    assert told(f, **{"größe": 1}) == "1"
    assert "is not an argument" in told(f, **{"größe": 1, "\N{GRINNING FACE}": 2})
    assert told(f, **{unicodedata.normalize("NFD", "größe"): 1}).startswith("Error: wrong arguments for f: ")
    assert "Did you mean 'city'" in told(f, **{"größe": 1, "City": "x"})


def test_a_docstring_that_names_another_parameter_changes_nothing():
    def f(city: str) -> str:
        """Weather.

        Args:
            cty: the city
        """
        return city

    assert parameters(f)["properties"] == {"city": {"type": "string"}}
    assert Tool.of(f).description == "Weather."
