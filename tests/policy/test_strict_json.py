"""JSON that is JSON: every refusal is a ValueError that says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.policy.strict_json import read_json
from agentrl.safe_json import MAX_DEPTH

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[" * 100_000, "levels deep"),
        ('{"a":' * 100_000, "levels deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels deep"),
        ('{"a": NaN}', "JSON has no NaN"),
        ("[-Infinity]", "JSON has no -Infinity"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[" + "9" * 5000 + "]", "too many digits"),
        ('{"a": {"b": 1, "b": 2}}', "the name 'b' is in one object twice"),
    ],
)
def test_what_is_not_json_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_json(text)


def test_depth_counts_levels_and_not_brackets() -> None:
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert len(read_json("[" + ",".join(["{}"] * 500) + "]")) == 500
    assert read_json('["' + "[" * 500 + '"]') == ["[" * 500]
