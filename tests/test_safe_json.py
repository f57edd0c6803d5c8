"""What makes the arguments of a call unsafe, in words that name the argument, and safe copies."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.safe_json import MAX_DEPTH, MAX_SIZE, made_safe, problem_of, safe_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Everything that a JSON parser of Python's returns.
WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


def nested(levels: int, *, as_list: bool = True) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value] if as_list else {"a": value}
    return value


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": "\ud800"}, "kind holds \\ud800, which is half of a character: write whole characters"),
        ({"kind": "tea \ud83d and more"}, "kind holds \\ud83d, which is half of a character: write whole characters"),
        ({"a": 1, "kind": {"x": ["\udfff"]}}, "kind holds \\udfff, which is half of a character"),
        ({"kind": {"\ud800": 1}}, "kind holds \\ud800, which is half of a character"),
        ({"\ud800": 1}, "'\\ud800' holds half of a character in its name"),
        ({"price": float("nan")}, "price holds nan: a number must be finite"),
        ({"price": [1.0, float("-inf")]}, "price holds -inf: a number must be finite"),
        ({"n": 10**400}, "n holds an integer of more than 1023 bits: send a smaller number"),
        ({"filter": nested(MAX_DEPTH + 1)}, "filter is nested deeper than 64 levels: send a flatter value"),
        ({"filter": nested(MAX_DEPTH + 1, as_list=False)}, "filter is nested deeper than 64 levels"),
        ({"filter": nested(20_000)}, "filter is nested deeper than 64 levels"),
        ({"text": "x" * MAX_SIZE}, "text is too long: a call takes at most 1048576 characters in all; send less"),
        ({"a": "x" * (MAX_SIZE // 2), "b": "x" * (MAX_SIZE // 2)}, "b is too long"),
        ({"items": [0] * MAX_SIZE}, "items is too long"),
        ({"x" * MAX_SIZE: 0}, "is too long"),
    ],
)
def test_the_problem_names_the_argument_and_what_to_do(arguments, problem):
    found = problem_of(arguments)
    assert problem in found
    assert len(found) < 200
    found.encode()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"kind": "tea", "n": 3, "price": 2.5, "sold": True, "note": None},
        {"kind": "Müsli ☕ \U0001f600"},
        {"filter": nested(MAX_DEPTH)},
        {"text": "x" * (MAX_SIZE - 100)},
        {"n": 2**63, "m": -(2**200), "share": 1e308},
        {"null": "null", "list": [None]},
        {"when": object()},  # what only Python code can give is not judged here
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_safe_arguments_have_no_problem(arguments):
    assert problem_of(arguments) is None


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_json_has_no_problem_and_is_kept(arguments):
    assert problem_of(arguments) is None
    assert made_safe(arguments) == arguments


@given(st.dictionaries(st.text(st.characters()), WILD, max_size=4))
def test_what_is_made_safe_is_safe_and_can_be_written(arguments):
    safe = made_safe(arguments)
    assert problem_of(safe) is None
    assert json.loads(json.dumps(safe, allow_nan=False).encode()) == safe
    msgspec.json.encode(safe)
    if problem_of(arguments) is None:
        assert safe == arguments


def test_deep_values_are_cut_when_made_safe():
    safe = made_safe({"a": nested(50_000)})
    assert problem_of(safe) is None
    assert "..." in json.dumps(safe)


def test_text_keeps_whole_characters():
    assert safe_text("plain") == "plain"
    assert safe_text("naïve ☕") == "naïve ☕"
    assert safe_text("a\ud800b") == "a\ufffdb"
    assert safe_text("\udc00\ud800") == "\ufffd\ufffd"
    assert safe_text("\ud83d\ude00") == "\U0001f600"
