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
MOST_VALUES = 1_000_000
"""Values of one `info`, and as many characters of text for each of 64: an answer may name one list a million times."""
_MOST_CHARS = 64 * MOST_VALUES
_TOO_MUCH = f"<more than {MOST_VALUES} values or {_MOST_CHARS} characters>"
_PRINTED = 1 << 14_000  # Python refuses to print integers of more than 4300 digits


def as_json(value: Any) -> Any:
    """The value itself if it is JSON already, else `plain` of it. Never raises.

    Args: value: numbers that are not finite, integers of thousands of digits, tuples, levels beyond the hundredth and
        what is beyond `MOST_VALUES` are not JSON.
    """
    return value if _Room().holds(value, _MOST_LEVELS) else plain(value)


class _Room:
    """What is left of the values and characters of one document."""

    def __init__(self) -> None:
        self.values, self.chars = MOST_VALUES, _MOST_CHARS

    @property
    def is_full(self) -> bool:
        return self.values < 0 or self.chars < 0

    def holds(self, value: Any, levels: int) -> bool:
        """Whether a value is JSON, and there is room for it."""
        kind = type(value)
        self.values -= 1
        if kind is str:
            self.chars -= len(value)
            return not self.is_full
        if kind is int:
            return bool(-_PRINTED < value < _PRINTED)
        if kind in _PLAIN:
            return True
        if kind is float:
            return math.isfinite(value)
        if levels == 0 or self.is_full:
            return False
        if kind is dict:
            for key in value:
                if type(key) is not str:
                    return False
                self.chars -= len(key)
            value = value.values()
        elif kind is not list:
            return False
        for item in value:  # noqa: SIM110 (`all` of a generator takes twice as long)
            if not self.holds(item, levels - 1):
                return False
        return True

    def plain(self, value: Any, around: tuple[int, ...]) -> Any:
        """`plain` of a value that stands in the containers whose ids are `around`."""
        self.values -= 1
        if self.is_full:
            return _TOO_MUCH
        kind = type(value)
        if kind is int and not -_PRINTED < value < _PRINTED:
            return hex(value)
        if kind is str:
            self.chars -= len(value)
            return _TOO_MUCH if self.is_full else value
        if kind in _PLAIN or kind is float:
            return value
        if id(value) in around or len(around) >= _MOST_LEVELS:
            within = id(value) in around
            return f"<{kind.__name__} within itself>" if within else f"<nested beyond {_MOST_LEVELS} levels>"
        try:
            return self._inner(value, (*around, id(value)))
        except Exception:  # the object of an author's library can raise anything
            return _named(value)

    def _inner(self, value: Any, inside: tuple[int, ...]) -> Any:
        if isinstance(value, (list, tuple)):
            return self._items(value, inside)
        if isinstance(value, Mapping):
            found = {}
            for key, item in value.items():
                if self.is_full:
                    found["..."] = _TOO_MUCH
                    break
                found[self._key(key)] = self.plain(item, inside)
            return found
        if isinstance(value, Set):
            return sorted(self._items(value, inside), key=_sorting_text)
        if isinstance(value, Sequence) and not isinstance(value, _TEXTS):
            return self._items(value, inside)  # such as a range, which may be longer than any list
        return self.plain(plain_object(value), inside)

    def _items(self, values: Iterable[Any], inside: tuple[int, ...]) -> list[Any]:
        found = []
        for item in values:
            found.append(self.plain(item, inside))
            if self.is_full:
                break
        return found

    def _key(self, key: Any) -> str:
        if isinstance(key, str):
            text = str.__str__(key)
        else:
            made = self.plain(plain_object(key), ())
            text = made if isinstance(made, str) else json.dumps(made)
        self.chars -= len(text)
        return text


def plain(value: Any) -> Any:
    """A value as numbers, text, lists and dictionaries with text as keys. Never raises.

    Sets become sorted lists, bytes and paths text, dates ISO text, arrays lists, integers of thousands of digits
    hexadecimal text. A value of another type or one that fails, a level beyond the hundredth, a container within itself
    and what is beyond `MOST_VALUES` become a text that says so. NaN and infinity stay.
    """
    return _Room().plain(value, ())


def _sorting_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def plain_object(value: Any) -> Any:
    """One step towards JSON for an object of another type; None and booleans come here only as keys. Never raises."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        return _form_of(value)
    except Exception:  # the object of an author's library can raise anything
        return _named(value)


def _form_of(value: Any) -> Any:
    found = next((form for kinds, form in _FORMS if isinstance(value, kinds)), None)
    if found is not None:
        return found(value)
    for name in ("tolist", "model_dump"):  # of numpy's scalars and arrays, of torch's tensors; of pydantic's models
        if callable(getattr(value, name, None)) and not isinstance(value, type):
            made = getattr(value, name)()
            return _named(value) if made is value else made
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, (Sequence, Set)):
        return list(value)
    return _named(value)


def _named(value: Any) -> str:
    # Not its `repr`, which holds an address: the same episode must be recorded in the same words each time.
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _text_of_bytes(value: Any) -> str:
    return bytes(value).decode("utf-8", "backslashreplace")


_TEXTS = (str, bytes, bytearray, memoryview)
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
