"""`@frozen` must be a standard frozen dataclass in everything but the time it takes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from agentrl.frozen import frozen
from agentrl.messages import Action, Message, ToolCall


@frozen
class Point:
    """Two coordinates."""

    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list)


def test_positions_keywords_and_defaults() -> None:
    assert dataclasses.astuple(Point(1)) == (1, 2, [])
    assert dataclasses.astuple(Point(1, tags=["a"], y=5)) == (1, 5, ["a"])
    assert Point(1).tags is not Point(1).tags


@pytest.mark.parametrize("arguments", [(), (1, 2, [], 4)])
def test_wrong_arguments_fail_as_the_standard_ones_do(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError) as expected:
        Standard(*arguments)
    with pytest.raises(TypeError) as raised:
        Point(*arguments)
    assert str(raised.value) == str(expected.value).replace("Standard", "Point")


def test_fields_cannot_be_assigned_added_or_deleted() -> None:
    point: Any = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        point.z = 3
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize(
    "value",
    [
        Message("tool", "5", (), "call_0", "add"),
        ToolCall("add", {"a": 1}),
        Action("hi", (ToolCall("add", {"a": 1}),), token_ids=(1, 2), logprobs=(-0.5, 0.0)),
    ],
)
def test_the_vocabulary_copies_pickles_compares_and_replaces(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert dataclasses.replace(value) == value
    first = dataclasses.fields(value)[0].name
    assert dataclasses.replace(value, **{first: "other"}) != value


def test_equal_records_hash_alike() -> None:
    assert hash(Message("user", "a")) == hash(Message("user", "a"))
    assert len({Message("user", "a"), Message("user", "a"), Message("user", "b")}) == 2


def test_the_signature_shows_names_and_hints() -> None:
    assert list(inspect.signature(Message).parameters) == [f.name for f in dataclasses.fields(Message)]
    assert inspect.signature(Point).parameters["y"].annotation == inspect.signature(Standard).parameters["y"].annotation


def test_what_it_cannot_build_is_refused() -> None:
    class Checked:
        x: int

        def __post_init__(self) -> None: ...

    class Inherited(Standard):
        z: int = 3

    for cls in (Checked, Inherited):
        with pytest.raises(TypeError, match="use @dataclass"):
            frozen(cls)
