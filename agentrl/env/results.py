"""What authors return, as text and as plain JSON values: numpy, dates, sets, bytes, dataclasses and pydantic models.

Owns the conversion. JSON has no number that is not finite: the texts "NaN", "Infinity" and "-Infinity" stand for them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from itertools import islice
from typing import Any

from pydantic_core import to_jsonable_python

from agentrl.safe_json import number_text, safe_text
from agentrl.tool_hints import MAX_ITEMS

MAX_DEPTH = 100
"""Levels of lists and objects in what an author returns."""
_BYTES = (bytes, bytearray, memoryview)
_PRINTED = 1 << 14_000  # Python refuses to print integers of more than 4300 digits
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def to_text(value: Any) -> str:
    """A tool's result as the model reads it: text as it is, None as "ok", anything else as JSON.

    Bytes are read as UTF-8; a byte that is none is written `\\xff`. A set is sorted. U+FFFD stands for half of a
    character, a text of hexadecimal digits for an integer that Python does not print.

    Raises: TypeError if the value has no JSON form; ValueError if it contains itself or is nested too deeply.
    """
    if isinstance(value, str):
        return safe_text(str.__str__(value))
    if value is None:
        return "ok"
    try:
        return safe_text(_encode(value))
    except (TypeError, ValueError, RecursionError):  # not plain, or not finite
        pass
    try:
        plain = plain_value(value)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"the result, a {type(value).__name__}, has no JSON form: {error}") from error
    return plain if isinstance(value, _BYTES) else _encode(plain)


def plain_value(value: Any) -> Any:
    """A value as plain JSON: None, bool, int, float, str, list and dict.

    Raises: TypeError if it has no JSON form; ValueError if it contains itself or is nested too deeply.
    """
    return _plain(value, ())


def plain_number(value: Any, what: str) -> float:
    """A reward as a float: numbers of Python, numpy and torch.

    Raises: TypeError that says `what` must be a number.
    """
    if isinstance(value, (str, bytes)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise TypeError(f"{what} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError) as error:  # an array of several numbers
        raise TypeError(f"{what} must be a number, got {value!r}") from error


def _plain(value: Any, outer: tuple[int, ...]) -> Any:
    """`plain_value` inside the containers whose ids are `outer`."""
    if value is None or type(value) is bool:
        return value
    if isinstance(value, Enum):
        return _plain(value.value, outer)
    if isinstance(value, str):
        return safe_text(str.__str__(value))
    if isinstance(value, int):
        return int(value) if -_PRINTED < value < _PRINTED else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else number_text(value)
    if isinstance(value, _BYTES):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, Iterator):
        value = _all_of(value)
    if isinstance(value, (Mapping, list, tuple, Set, range)):
        return _plain_container(value, outer)
    return _plain_object(value, outer)


def _all_of(values: Iterator[Any]) -> list[Any]:
    found = list(islice(values, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise ValueError(f"it yields more than {MAX_ITEMS} values")
    return found


def _plain_container(value: Any, outer: tuple[int, ...]) -> Any:
    if id(value) in outer:
        raise ValueError(f"a {type(value).__name__} in it contains itself")
    if len(outer) >= MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    inside = (*outer, id(value))
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, inside) for key, item in value.items()}
    items = [_plain(item, inside) for item in value]
    return sorted(items, key=_order) if isinstance(value, Set) else items


def _order(item: Any) -> tuple[str, Any]:
    """Sorts numbers among themselves and anything else by its text."""
    return ("", item) if isinstance(item, (int, float)) else ("text", item if isinstance(item, str) else _encode(item))


def _key(key: Any) -> str:
    plain = key if type(key) is str else _plain(key, ())
    return safe_text(plain) if isinstance(plain, str) else _encode(plain)


def _plain_object(value: Any, outer: tuple[int, ...]) -> Any:
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value), outer)
    if len(outer) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        plain = _listed(value) if hasattr(value, "tolist") else to_jsonable_python(value, fallback=_listed)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a {type(value).__name__} cannot be written as JSON: {error}") from error
    return _plain(plain, (*outer, id(value)))


def _listed(value: Any) -> Any:
    """A scalar or an array of numpy, or a tensor of torch, as numbers and lists. Raises: TypeError for others."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"a {type(value).__name__} is no JSON")
    listed = value.tolist()
    # A number of more digits than Python's is returned as it is.
    return float(listed) if type(listed) is type(value) else listed
