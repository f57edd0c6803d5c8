"""The restricted form of values, and their comparison."""

from __future__ import annotations

import contextlib
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.sandbox.values import ValueFormError, decode, encode, same_value
from agentrl.sandbox.worker.plain import MAX_INT_BITS, MAX_PARTS

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


pieces = st.sampled_from(
    [b"N", b"T", b"i7;", b"i-ff;", b"f0x1.8p+0;", b"fnan;", b"u1:", b"y2:", b"d1:", b"s2:", b"z0:"]
)


@given(
    st.lists(
        pieces
        | st.binary(max_size=2)
        | st.builds(b"%c%d:".__mod__, st.tuples(st.sampled_from(b"ltszd"), st.integers(0, 9)))
    )
)
def test_any_pieces_are_a_value_or_refused(parts):
    with contextlib.suppress(ValueFormError):
        value = decode(b"".join(parts))
        assert same_value(decode(encode(value)), value)


def test_only_exact_types_go_in():
    class Number(int): ...

    class Text(str): ...

    for value in (Number(1), Text("x"), [Number(1)], {Text("k"): 1}, object(), len, 1j, range(3), bytearray(b"x")):
        with pytest.raises(ValueFormError, match="is not plain"):
            encode(value)


def _form(tag, items):
    return b"%c%d:" % (tag, len(items)) + b"".join(items)


def _int(number):
    return b"i%x;" % number


ONE_HASH = [number * (2**61 - 1) for number in range(3000)]
MANY_SETS = [_form(b"z", [*map(_int, ONE_HASH[:45]), _int(ONE_HASH[50 + last])]) for last in range(46)]
FOREIGN = {
    "a set of integers of one hash": _form(b"s", [*map(_int, ONE_HASH)]),
    "a frozenset of integers of one hash": _form(b"z", [*map(_int, ONE_HASH)]),
    "a dict with keys of one hash": _form(
        b"d", [b"N" if odd else _int(key) for key in ONE_HASH for odd in (0, 1)]
    ).replace(b"6000", b"3000", 1),
    "long tuples of one hash": _form(b"s", [_form(b"t", [b"N"] * 1000 + [_int(key)]) for key in ONE_HASH[:64]]),
    "sets of sets of one hash": _form(
        b"s", [_form(b"z", [*MANY_SETS[:-2], MANY_SETS[last]]) for last in (-1, -2)] * 20
    ),
    "a million parts": _form(b"l", [b"N"] * 10**6),
    "many empty sets in lists": _form(b"l", [_form(b"l", [b"s0:"] * 1000)] * 200),
    "a list that announces too much": b"l999999999:",
    "an announced text that is not there": b"u999999999:x",
    "an integer of millions of digits": b"i" + b"f" * 10**6 + b";",
    "a number of millions of digits": b"f0x1." + b"0" * 10**6 + b"p0;",
    "no end of a number": b"i" + b"f" * 10**6,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_value_that_costs_much_is_refused_after_few_steps(content):
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1

    sys.setprofile(count)  # counts calls, so that the bound does not depend on the machine
    try:
        with pytest.raises(ValueFormError):
            decode(content)
    finally:
        sys.setprofile(None)
    assert steps < 4_000_000


@pytest.mark.parametrize(
    "value",
    [
        set(range(50_000)),
        {(x, y) for x in range(-60, 60) for y in range(-60, 60)},  # -1 and -2 have the same hash
        {1 << bit for bit in range(1500)},
        {2.0**power: power for power in range(-1000, 1000)},
        {frozenset({x, y}) for x in range(-20, 20) for y in range(-20, 20)},
        2**MAX_INT_BITS - 1,
    ],
    ids=["range", "grid", "powers", "float powers", "pairs", "large integer"],
)
def test_large_honest_values_come_out(value):
    assert decode(encode(value)) == value


def test_a_value_above_a_bound_is_refused_where_it_is_made():
    for value, why in (([None] * MAX_PARTS, "parts"), (2**MAX_INT_BITS, "bits")):
        with pytest.raises(ValueFormError, match=why):
            decode(encode(value))


def test_depth_is_capped_both_ways():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueFormError):
        encode(deep)
    with pytest.raises(ValueFormError):
        decode(b"l1:" * 5000 + b"N")


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
