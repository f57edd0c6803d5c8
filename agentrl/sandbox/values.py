"""Plain values that go into a sandbox and come out of it. Owns their type and comparison; loads no code.

Only exact built-in types pass: None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict.
`worker/plain.py` owns the form in which they travel, for both sides.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from agentrl.sandbox.worker.plain import MAX_DEPTH, ValueFormError, decode, encode

__all__ = ["MAX_DEPTH", "PlainValue", "ValueFormError", "decode", "encode", "same_value"]

PlainValue: TypeAlias = Any
"""None, bool, int, float, str, bytes, or a list, tuple, set, frozenset or dict of such values."""


def same_value(value: PlainValue, expected: PlainValue, *, rel_tol: float = 0.0, abs_tol: float = 0.0) -> bool:
    """Whether two plain values are equal, in value and in type, at every depth.

    `1`, `1.0` and `True` differ; `(1,)` and `[1]` differ; NaN equals NaN; 0.0 equals -0.0.
    Order counts in lists and tuples, not in sets and dicts. Tolerances apply to floats, except to keys.

    Args:
        value: what a sandbox returned.
        expected: what it should have returned.
        rel_tol, abs_tol: as for `math.isclose`; with both 0, floats must be equal.
    """
    if type(value) is not type(expected):
        return False
    if type(value) is float:
        if math.isnan(value) or math.isnan(expected):
            return math.isnan(value) and math.isnan(expected)
        return value == expected or math.isclose(value, expected, rel_tol=rel_tol, abs_tol=abs_tol)
    if type(value) in (list, tuple):
        return len(value) == len(expected) and all(
            same_value(a, b, rel_tol=rel_tol, abs_tol=abs_tol) for a, b in zip(value, expected, strict=True)
        )
    if type(value) is dict:
        mine, theirs = _by_key(value), _by_key(expected)
        return mine.keys() == theirs.keys() and all(
            same_value(mine[key], theirs[key], rel_tol=rel_tol, abs_tol=abs_tol) for key in mine
        )
    if type(value) in (set, frozenset):
        return {_typed(item) for item in value} == {_typed(item) for item in expected}
    return type(value) in (type(None), bool, int, str, bytes) and value == expected


def _by_key(mapping: dict[Any, Any]) -> dict[Any, Any]:
    return {_typed(key): value for key, value in mapping.items()}


def _typed(item: PlainValue) -> Any:
    """A hashable value that differs for 1 and True, and for (1,) and (1.0,)."""
    if type(item) is tuple:
        return ("tuple", tuple(_typed(part) for part in item))
    if type(item) is frozenset:
        return ("frozenset", frozenset(_typed(part) for part in item))
    if type(item) is float and math.isnan(item):
        return ("float", "nan")
    return (type(item).__name__, item)
