"""One JSON value a line, exactly: what a model wrote must come back, whatever it wrote.

orjson reads and writes nearly every line. Integers beyond 64 bits, lone surrogates and very deep
nesting (all of which a model can put into a tool call) take the standard library's slower road;
such a line begins with a space, so that the reader takes the same road back.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def encode_line(value: Any) -> bytes:
    """A value as one line, newline included.

    Raises: TypeError if something in it has no JSON form.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS | orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        try:
            return b" " + json.dumps(value, separators=(",", ":")).encode() + b"\n"
        except (TypeError, ValueError, RecursionError):
            raise error from None


def decode_line(line: bytes) -> Any:
    """Read one line. Raises: ValueError if it is not JSON."""
    if line[:1] == b" ":
        return json.loads(line)
    return orjson.loads(line)


def canonical(value: Any) -> bytes:
    """Bytes that are equal where two values have the same JSON form; keys are sorted."""
    try:
        return orjson.dumps(value, option=_OPTIONS | orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
