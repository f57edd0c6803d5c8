"""Any Python value as JSON. What an author puts into `info` never ends a run.

Owns what becomes of values that are not JSON. Lines and files belong to `json_lines` and `store`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

_PLAIN = frozenset({str, int, bool, type(None)})
_MOST_LEVELS = 100


def as_json(value: Any) -> Any:
    """The value itself if it is JSON already, else `plain` of it.

    Args: value: numbers that are not finite, tuples and levels beyond the hundredth are not JSON.
    """
    return value if _is_json(value, _MOST_LEVELS) else plain(value)


def _is_json(value: Any, levels: int) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is float:
        return math.isfinite(value)
    if levels == 0:
        return False
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list:
        return False
    for item in value:  # noqa: SIM110 (`all` of a generator takes twice as long)
        if type(item) not in _PLAIN and not _is_json(item, levels - 1):
            return False
    return True


def plain(value: Any) -> Any:
    """A value as numbers, text, lists and dictionaries with text as keys.

    Sets become sorted lists, bytes and paths text, dates ISO text, arrays lists. A value of another type, a level
    beyond the hundredth and a container within itself become a text that says so. NaN and infinity stay.
    """
    return _plain(value, ())


def _plain(value: Any, around: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in _PLAIN or kind is float:
        return value
    if id(value) in around or len(around) >= _MOST_LEVELS:
        return f"<{kind.__name__} within itself>" if id(value) in around else f"<nested beyond {_MOST_LEVELS} levels>"
    inside = (*around, id(value))
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, inside) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, inside) for item in value]
    if isinstance(value, Set):
        return sorted((_plain(item, inside) for item in value), key=_sorting_text)
    return _plain(plain_object(value), inside)


def _sorting_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    made = plain_object(key)
    return made if isinstance(made, str) else json.dumps(made)


def plain_object(value: Any) -> Any:
    """One step towards JSON for an object of another type; None and booleans come here only as keys."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    found = next((form for kinds, form in _FORMS if isinstance(value, kinds)), None)
    if found is not None:
        return found(value)
    for name in ("tolist", "model_dump"):  # of numpy's scalars and arrays, of torch's tensors; of pydantic's models
        if callable(getattr(value, name, None)) and not isinstance(value, type):
            return _tried(value, name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, (Sequence, Set)):
        return list(value)
    return _named(value)


def _tried(value: Any, method: str) -> Any:
    try:
        made = getattr(value, method)()
    except Exception:  # the object of an author's library can raise anything
        return _named(value)
    return _named(value) if made is value else made


def _named(value: Any) -> str:
    # Not its `repr`, which holds an address: the same episode must be recorded in the same words each time.
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _text_of_bytes(value: Any) -> str:
    return bytes(value).decode("utf-8", "backslashreplace")


# In this order: an Enum may also be a str or an int.
_FORMS: Sequence[tuple[type | tuple[type, ...], Callable[[Any], Any]]] = (
    (Enum, lambda value: value.value),
    (str, str),
    (int, int),
    (float, float),
    ((bytes, bytearray, memoryview), _text_of_bytes),
    ((date, time), lambda value: value.isoformat()),
    (timedelta, lambda value: value.total_seconds()),
    ((PurePath, Decimal, Fraction, UUID), str),
    (BaseException, lambda value: f"{type(value).__name__}: {value}"),
    (msgspec.Struct, msgspec.structs.asdict),
    (Mapping, dict),
)


def finite(value: Any) -> Any:
    """Plain JSON with null in the place of NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


def is_finite(values: Iterable[Any]) -> bool:
    """Whether no number in the values, at any level, is NaN or infinite."""
    for value in values:
        kind = type(value)
        if kind is float:
            if not math.isfinite(value):
                return False
        elif kind is dict:
            if not is_finite(value.values()):
                return False
        elif (kind is list or kind is tuple) and not is_finite(value):
            return False
    return True
