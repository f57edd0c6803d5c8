"""One JSON value a line, read back exactly as it was written, also where a model wrote unusual text.

msgspec reads and writes nearly every line. It cannot write lone surrogates, very deep nesting, NaN and infinity, and a
model can put each of them into a tool call. The standard library, which is slower, writes those lines; they begin with
a space, so that it also reads them. Values of other types are written as `agentrl.rollout.plain_json` says.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from agentrl.rollout.plain_json import finite, plain, plain_object

_encoder = msgspec.json.Encoder(enc_hook=plain_object)
_sorting_encoder = msgspec.json.Encoder(enc_hook=plain_object, order="sorted")
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def encode_line(value: Any) -> bytes:
    """A value as one line of valid JSON, newline included. Numbers that are not finite become null."""
    try:
        return _encoder.encode(value) + b"\n"
    except (TypeError, UnicodeEncodeError, RecursionError):
        return _with_standard_library(finite(_builtins(value)))


def encode_exact_line(value: Any) -> bytes:
    """As `encode_line`, but NaN and infinity stay what they are; strict readers of JSON refuse such a line."""
    return _with_standard_library(_builtins(value))


def _with_standard_library(value: Any) -> bytes:
    return b" " + json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _builtins(value: Any) -> Any:
    """A value as numbers, text, lists and dictionaries."""
    try:
        found = msgspec.to_builtins(value, enc_hook=plain_object, str_keys=True)
        json.dumps(found)
    except (TypeError, RecursionError):
        return plain(value)
    return found


def decode_line(line: bytes) -> Any:
    """Read one line. Raises: ValueError if it is not JSON."""
    try:
        return json.loads(line) if line[:1] == b" " else _decoder.decode(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def canonical(value: Any) -> bytes:
    """Bytes that are equal where two values have the same JSON form; keys are sorted."""
    try:
        line = _sorting_encoder.encode(value)
    except (TypeError, UnicodeEncodeError, RecursionError):
        line = b"null"
    if line.find(b"null") < 0:
        return line
    # Here null may also stand for NaN or infinity, which the standard library tells apart.
    return json.dumps(_builtins(value), sort_keys=True, separators=(",", ":")).encode()
