"""One JSON value a line, read back exactly as it was written, also where a model wrote unusual text.

msgspec reads and writes nearly every line. It cannot write lone surrogates or very deep nesting, and a model can put
both into a tool call. The standard library, which is slower, writes those lines; they begin with a space, so that it
also reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec


def _plain(value: Any) -> Any:
    """The JSON value of an object of a type that msgspec does not know; None and booleans get here only as keys."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return value.tolist()
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_sorting_encoder = msgspec.json.Encoder(enc_hook=_plain, order="sorted")
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def encode_line(value: Any) -> bytes:
    """A value as one line, newline included.

    Raises: TypeError if something in it has no JSON form.
    """
    try:
        return _encoder.encode(value) + b"\n"
    except (UnicodeEncodeError, RecursionError):
        return b" " + _slow(value, separators=(",", ":")) + b"\n"


def _slow(value: Any, **options: Any) -> bytes:
    try:
        return json.dumps(msgspec.to_builtins(value, enc_hook=_plain), **options).encode()
    except RecursionError:
        raise TypeError("it is nested too deeply to be JSON") from None


def decode_line(line: bytes) -> Any:
    """Read one line. Raises: ValueError if it is not JSON."""
    if line[:1] == b" ":
        return json.loads(line)
    try:
        return _decoder.decode(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def canonical(value: Any) -> bytes:
    """Bytes that are equal where two values have the same JSON form; keys are sorted."""
    try:
        return _sorting_encoder.encode(value)
    except (TypeError, UnicodeEncodeError, RecursionError):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
