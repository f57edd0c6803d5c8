"""A line of the store is valid JSON whatever models and authors write, and what they write comes back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.rollout.json_lines import canonical, decode_line, encode_line
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import EnvRef, Task
from tests.rollout.stored import filled, trajectory


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@dataclass
class Room:
    name: str
    size: Decimal


def test_info_that_is_not_json_never_ends_a_run_and_is_stored_in_words_that_repeat(path):
    within: dict = {"a": 1}
    within["within"] = within
    info = {
        "success": np.bool_(True),
        "score": np.float32(0.5),
        "counts": np.arange(3),
        "raw": b"caf\xe9",
        "tags": {"b", "a"},
        "room": Room("hall", Decimal("1.50")),
        "when": datetime(2026, 11, 26, tzinfo=UTC),
        "where": Path("/tmp/x"),
        "client": object(),
        "within": within,
        "deep": deep(5000),
        (1, 2): None,
        3: "three",
        "half": "\ud800",
    }
    store = filled(path, 1)
    odd = replace(trajectory(1), info=info)
    store.append(odd)
    first, back = list(store)
    assert first == trajectory(0)
    assert {key: value for key, value in back.info.items() if key != "deep"} == {
        "success": True,
        "score": 0.5,
        "counts": [0, 1, 2],
        "raw": "caf\\xe9",
        "tags": ["a", "b"],
        "room": {"name": "hall", "size": "1.50"},
        "when": "2026-11-26T00:00:00+00:00",
        "where": "/tmp/x",
        "client": "<builtins.object>",
        "within": {"a": 1, "within": "<dict within itself>"},
        "[1, 2]": None,
        "3": "three",
        "half": "\ud800",
    }
    assert "<nested beyond 100 levels>" in str(back.info["deep"])
    assert back.success


class Odd:
    """An object of an author's that raises at everything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError("no text")


class OddError(Odd, ValueError):
    pass


def test_info_of_any_size_is_written_in_bounded_time_and_space(path):
    often: Any = "x"
    for _ in range(64):
        often = {"a": often, "b": often}
    info = {
        "n": -(10**5000),
        "r": range(10**12),
        "often": often,
        "odd": Odd(),
        "e": OddError(),
        "f": Fraction("1e5000"),
    }
    store = filled(path, 0)
    for name, value in info.items():
        store.append(replace(trajectory(0), info={name: value, "success": True}))
    found = {name: back.info[name] for name, back in zip(info, store, strict=True)}
    assert found["n"] == hex(-(10**5000))
    assert len(found["r"]) == 10**6 - 1
    assert found["r"][-1] == "<more than 1000000 values or 64000000 characters>"
    assert len(str(found["often"])) < 10**8
    assert found["odd"] == f"<{__name__}.Odd>"
    assert found["e"] == f"<{__name__}.OddError>"
    assert found["f"] == "<fractions.Fraction>"


def test_numbers_that_are_not_finite_come_back_where_replaying_needs_them(path):
    odd = {"nan": math.nan, "list": [math.inf, {"x": -math.inf}], "none": None}
    store = TrajectoryStore(path)
    store.append(trajectory(0, arguments=odd))
    store.append(replace(trajectory(1), task=Task("t", data={"low": -math.inf}), info={"loss": math.nan, "no": None}))
    store.append(replace(trajectory(2), env=EnvRef("test/E-v0", {}, {"max_wall_s": math.inf})))
    faulted = trajectory(3, status="fault")
    faulted.turns[-1].reward = math.nan
    store.append(faulted)
    first, second, third, fourth = store
    assert repr(first.turns[0].action.tool_calls[0].arguments) == repr(odd)
    assert second.task.data == {"low": -math.inf}
    assert repr(second.info) == "{'loss': nan, 'no': None}"
    assert third.env.limits == {"max_wall_s": math.inf}
    assert math.isnan(fourth.reward)


@pytest.mark.parametrize("odd", ["\ud800", deep(5000), {(1, 2): 3}, object(), b"\xff", {3, 4}, np.float32("nan")])
def test_a_line_and_a_summary_are_valid_json_whatever_is_in_them(tmp_path, odd):
    def constants(text):
        raise AssertionError(f"{text} is not JSON")

    value = {"odd": odd, "nan": math.nan, "inf": [math.inf]}
    write_summary(tmp_path / "summary.json", value)
    for line in (encode_line(value), (tmp_path / "summary.json").read_bytes()):
        read = json.loads(line, parse_constant=constants)
        assert (read["nan"], read["inf"]) == (None, [None])


@pytest.mark.parametrize(
    "value", [2**64, -(2**200), "\ud800 lone", deep(400), {"a": {"b\udfff": [2**70, 0.1]}}, 2**63, -0.0, 1e308]
)
def test_what_models_write_comes_back_exactly(path, value):
    store = TrajectoryStore(path)
    store.append(trajectory(0))
    store.append(trajectory(1, arguments={"x": value}))
    store.append(trajectory(2))
    back = list(store)
    assert [t.seed for t in back] == [0, 1, 2]
    assert back[1].turns[0].action.tool_calls[0].arguments == {"x": value}
    assert repr(back[1].turns[0].action.tool_calls[0].arguments["x"]) == repr(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_lines_round_trip_like_the_standard_library(value):
    line = encode_line(value)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == value
    assert canonical(decode_line(line)) == canonical(value)


class Name(str):
    """Text of a type of its own."""


def test_numbers_keys_and_texts_of_other_types_are_written_as_json_has_them():
    value = {
        "mean": np.float64(0.5),
        "seen": np.arange(3),
        "right": np.bool_(True),
        "who": Name("a"),
        "view": MappingProxyType({"x": 1}),
        3: "three",
        np.int64(2): "two",
        None: "none",
        True: "true",
    }
    read = {"mean": 0.5, "seen": [0, 1, 2], "right": True, "who": "a", "view": {"x": 1}}
    assert decode_line(encode_line(value)) == {**read, "3": "three", "2": "two", "null": "none", "true": "true"}


def test_canonical_tells_numbers_that_are_not_finite_apart():
    assert canonical({"x": math.nan}) == canonical({"x": math.nan})
    forms = [canonical({"x": value}) for value in (math.nan, math.inf, -math.inf, None, "NaN")]
    assert len(set(forms)) == 5
    assert canonical({"x": np.float32(0.5), "s": "\ud800"}) == canonical({"x": 0.5, "s": "\ud800"})


def test_canonical_ignores_the_order_of_keys_and_nothing_else():
    assert canonical({"a": 1, "b": (2,)}) == canonical({"b": [2], "a": 1})
    assert canonical({"a": 1}) != canonical({"a": 1.0})
    assert canonical({"a": "1"}) != canonical({"a": 1})
    assert canonical([2**64, 1]) != canonical([2**64 + 1, 1])
