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

from msgspec import structs
from pydantic_core import to_jsonable_python

from agentrl.messages import Message
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


def plain_truth(value: Any, what: str) -> bool:
    """A verdict as a truth value. Raises: TypeError for a text, NaN and an array, which say neither yes nor no."""
    if value is True or value is False:
        return value
    try:
        if not isinstance(value, (str, bytes)) and value == value:  # NaN is not equal to itself
            return bool(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be True or False, got {type(value).__name__}") from error
    raise TypeError(f"{what} must be True or False, got {value!r}")


def plain_name(value: Any) -> str | None:
    """The name of a state as text: of anything but text its JSON form. Raises: TypeError, ValueError."""
    return None if value is None else to_text(value)


def plain_messages(observation: Any) -> tuple[Message, ...]:
    """An observation whose texts can be encoded. Raises: TypeError that says what it must be."""
    if not isinstance(observation, (tuple, list)):
        raise TypeError(f"an observation must be a tuple of Messages, got {type(observation).__name__}")
    for message in observation:
        if not isinstance(message, Message) or not isinstance(message.content, str):
            kind = (
                f"{type(message).__name__} in it" if not isinstance(message, Message) else "a content that is no text"
            )
            raise TypeError(f"an observation must be a tuple of Messages, got a {kind}")
    return tuple([with_safe_text(message) for message in observation])


def with_safe_text(message: Message) -> Message:
    """The message with U+FFFD in place of each lone surrogate in its text."""
    text = safe_text(message.content)
    return message if text is message.content else structs.replace(message, content=text)


def plain_components(parts: Any) -> dict[str, float]:
    """The named parts of a reward. Raises: TypeError that says what they must be."""
    if not isinstance(parts, Mapping):
        raise TypeError(f"reward_components must be a dict of numbers, got {type(parts).__name__}")
    found = {}
    for name, value in parts.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a reward component must be text, got {type(name).__name__}")
        found[safe_text(name)] = plain_number(value, f"the reward component {name!r}")
    return found


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
