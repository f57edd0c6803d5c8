"""What authors return, as text that the model reads and as values that a store keeps."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import threading
import uuid
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from agentrl.env.results import plain_number, plain_value, to_text


class Colour(enum.Enum):
    RED = "red"


class Named(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


class Offer(BaseModel):
    price: float
    day: datetime.date = datetime.date(2026, 1, 2)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (np.str_("as it is"), "as it is"),
        (Named.RED, "red"),
        ("half \ud800", "half \ufffd"),
        (None, "ok"),
        (True, "true"),
        (2.5, "2.5"),
        ({"ä": (1, None)}, '{"ä": [1, null]}'),
        ({"half": "\ud800"}, '{"half": "\ufffd"}'),
        (NAN, '"NaN"'),
        ([INF, -INF, 1.0], '["Infinity", "-Infinity", 1.0]'),
        (np.float32(0.5), "0.5"),
        (np.float64("nan"), '"NaN"'),
        (np.int64(3), "3"),
        (np.bool_(False), "false"),
        (np.longdouble(2), "2.0"),
        (np.arange(3), "[0, 1, 2]"),
        (np.array([[1.0, NAN]]), '[[1.0, "NaN"]]'),
        ({"n": np.int64(3), np.int64(4): 1}, '{"n": 3, "4": 1}'),
        (b"tea \xe2\x98\x95", "tea ☕"),
        (b"\xff\x00", "\\xff\x00"),
        ({"raw": b"\xff"}, '{"raw": "\\\\xff"}'),
        ({"b", "a"}, '["a", "b"]'),
        (frozenset({2, "x", 1}), '[1, 2, "x"]'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (decimal.Decimal("1.50"), '"1.50"'),
        (pathlib.PurePosixPath("/tmp/x"), '"/tmp/x"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Colour.RED, '"red"'),
        ([Level.HIGH, Colour.RED], '[3, "red"]'),
        (Point(np.arange(2), NAN), '{"x": [0, 1], "y": "NaN"}'),
        ([Offer(price=INF)], '[{"price": "Infinity", "day": "2026-01-02"}]'),
        (collections.deque([1]), "[1]"),
        (range(2), "[0, 1]"),
        ((n for n in range(2)), "[0, 1]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_results_as_text(value, text):
    assert to_text(value) == text
    text.encode()


def test_an_integer_that_python_does_not_print_is_text():
    assert to_text(10**5000).startswith('"0x')
    assert to_text({"n": 10**5000}).startswith('{"n": "0x')


def endless(kind: str) -> Any:
    value: Any = {} if kind == "dict" else []
    for _ in range(2):
        value.update(a=value) if kind == "dict" else value.append(value)
    return Point(value) if kind == "dataclass" else value


def deep() -> Any:
    value: Any = []
    for _ in range(20_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (threading.Lock(), TypeError, "the result, a lock, has no JSON form: a lock is no JSON"),
        ([object()], TypeError, "the result, a list, has no JSON form: a object is no JSON"),
        (endless("list"), ValueError, "a list in it contains itself"),
        (endless("dict"), ValueError, "a dict in it contains itself"),
        (endless("dataclass"), ValueError, "the result, a Point, has no JSON form"),
        (deep(), ValueError, "it is nested deeper than 100 levels"),
        (Point(deep()), ValueError, "the result, a Point, has no JSON form"),
    ],
    ids=["lock", "object", "list", "dict", "dataclass", "deep", "deep in a dataclass"],
)
def test_a_result_without_a_json_form_is_said(value, kind, message):
    with pytest.raises(kind, match=message):
        to_text(value)


@pytest.mark.parametrize(
    "value", [1, True, 1.0, np.float32(1), np.int8(1), np.bool_(True), np.array(1.0), Level(3) - 2]
)
def test_numbers_of_every_kind_are_rewards(value):
    assert plain_number(value, "reward") == 1.0
    assert type(plain_number(value, "reward")) is float


@pytest.mark.parametrize("value", [None, "1", b"1", [1.0], np.arange(2), {}])
def test_what_is_no_number_is_no_reward(value):
    with pytest.raises(TypeError, match="reward must be a number, got "):
        plain_number(value, "reward")


def test_plain_values_are_copies_of_pythons_own_types():
    value = plain_value({"a": (Level.HIGH, np.float64(0.5)), "b": Named.RED})
    assert value == {"a": [3, 0.5], "b": "red"}
    assert [type(item) for item in (*value["a"], value["b"])] == [int, float, str]
