"""JSON that a model wrote: read only if it is JSON, and not too deep.

Python's `json` reads more than JSON (NaN, Infinity, a name twice) and fails in ways of its own on deep or long
input. Here every refusal is a ValueError with a reason that a model can act on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from agentrl.safe_json import MAX_DEPTH


def read_json(text: str) -> Any:
    """The value of a JSON text that a model wrote.

    Raises: ValueError that says what is wrong: the syntax, a constant or number that JSON does not have, a name that
        an object has twice, or more than `MAX_DEPTH` levels.
    """
    value, end = read_json_at(text, len(text) - len(text.lstrip(_BLANKS)))
    if text[end:].strip(_BLANKS):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def read_json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and the place behind it. Raises: as `read_json`."""
    try:
        value, end = _decoder.raw_decode(text, start)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        raise ValueError(_TOO_LONG_NUMBER if "integer string conversion" in str(error) else str(error)) from None
    if text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise ValueError(_TOO_DEEP)
    return value, end


_BLANKS = " \t\n\r"
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"
_TOO_LONG_NUMBER = "a number has too many digits"


def _decimal(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:40]!r} is in one object twice")
    return value


_decoder = json.JSONDecoder(parse_float=_decimal, parse_constant=_constant, object_pairs_hook=_object)


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than `levels` levels."""
    inside = [value]
    for _ in range(levels):
        inside = [
            item
            for box in inside
            if isinstance(box, (dict, list))
            for item in (box.values() if isinstance(box, dict) else box)
            if isinstance(item, (dict, list))
        ]
        if not inside:
            return False
    return True
