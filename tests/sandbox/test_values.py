"""The restricted form of values, and their comparison."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.sandbox.values import ValueFormError, decode, encode, same_value

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(keys, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_what_goes_in_comes_out(value):
    assert same_value(decode(encode(value)), value)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_value_or_refused(content):
    with contextlib.suppress(ValueFormError):
        decode(content)


@given(st.recursive(st.none() | st.integers() | st.text() | st.sampled_from("nbifuyltszd"), st.lists, max_leaves=12))
def test_any_json_is_a_value_or_refused(form):
    with contextlib.suppress(ValueFormError):
        decode(json.dumps(form).encode())


def test_only_exact_types_go_in():
    class Number(int): ...

    class Text(str): ...

    for value in (Number(1), Text("x"), [Number(1)], {Text("k"): 1}, object(), len, 1j, range(3), bytearray(b"x")):
        with pytest.raises(ValueFormError, match="is not plain"):
            encode(value)


@pytest.mark.parametrize("kind", ["s", "z", "d"])
def test_keys_of_one_hash_are_refused_before_they_cost_time(kind):
    def form(numbers):
        keys = [["i", hex(number)] for number in numbers]
        return json.dumps([kind, [[key, ["n"]] for key in keys] if kind == "d" else keys]).encode()

    assert len(decode(form(range(3000)))) == 3000
    with pytest.raises(ValueFormError, match="of one hash"):
        decode(form(number * (2**61 - 1) for number in range(3000)))


def test_depth_is_capped_both_ways():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueFormError):
        encode(deep)
    with pytest.raises(ValueFormError):
        decode(b'["l",[' * 5000 + b"]]" * 5000)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True), (1, 1.0), (0, False), (0, None), ("1", 1), (b"a", "a"), ([1], (1,)), ([1], [True]), ({1}, {True}),
        ({1}, frozenset({1})), ({1: 2}, {True: 2}), ({1: 2}, {1: 2.0}), ([1, 2], [1]), (1.0, 1.0000001), ({"a": 1}, {}),
        (float("nan"), 0.0), ((1, (2, 3.0)), (1, (2, 3))), ({(1,): 0}, {(1.0,): 0}),
    ],
)  # fmt: skip
def test_what_differs_in_value_or_type_is_not_the_same(value, expected):
    assert not same_value(value, expected)
    assert not same_value(expected, value)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1.5, -0.0, math.nan, math.inf, "", "é", b"\0", [], [1, [2]], (1,), {1, "1"}, {"k": [1]}],
)
def test_a_value_is_itself(value):
    assert same_value(value, decode(encode(value)))


def test_tolerances_apply_to_floats_at_any_depth_and_to_nothing_else():
    assert same_value([{"x": 1.0}], [{"x": 1.0 + 1e-9}], rel_tol=1e-6)
    assert not same_value([{"x": 1.0}], [{"x": 1.1}], rel_tol=1e-6)
    assert not same_value(1000, 1001, rel_tol=0.1)
    assert not same_value(math.nan, 1.0, abs_tol=10)
