"""The form in which plain values travel between the host and a sandbox. Owns both directions; loads no code.

A value is JSON of the shape [tag] or [tag, payload], so decoding can build nothing but exact built-in types.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

MAX_DEPTH = 64
_MAX_EQUAL_HASHES = 64
"""Keys of one hash in one set or dict: building one takes time that grows with their square."""
_CONTAINERS = {"l": list, "t": tuple, "s": set, "z": frozenset}
_TAG_OF: dict[Any, str] = {list: "l", tuple: "t", set: "s", frozenset: "z"}


class ValueFormError(ValueError):
    """A value that cannot travel: its type is not plain, it is too deep, or the bytes do not have this form."""


def encode(value: Any) -> bytes:
    """The bytes of a value.

    Raises: ValueFormError for a type that is not plain (subclasses are not), or more than MAX_DEPTH levels.
    """
    return json.dumps(_tagged(value, 0), separators=(",", ":")).encode("ascii")


def decode(content: bytes) -> Any:
    """The value of bytes that `encode` made.

    Raises: ValueFormError for anything that `encode` does not produce.
    """
    try:
        return _plain(json.loads(content), 0)
    except ValueFormError:
        raise
    except (ValueError, TypeError, RecursionError, KeyError, OverflowError) as error:
        raise ValueFormError(f"no value in the restricted form: {type(error).__name__}") from None


def _tagged(value: Any, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise ValueFormError(f"a value nested deeper than {MAX_DEPTH} levels")
    kind: Any = type(value)
    if value is None:
        return ["n"]
    if kind is bool:
        return ["b", 1 if value else 0]
    if kind is int:
        return ["i", hex(value)]
    if kind is float:
        return ["f", value.hex()]
    if kind is str:
        return ["u", value]
    if kind is bytes:
        return ["y", base64.b64encode(value).decode("ascii")]
    if kind in _TAG_OF:
        return [_TAG_OF[kind], [_tagged(item, depth + 1) for item in value]]
    if kind is dict:
        return ["d", [[_tagged(key, depth + 1), _tagged(item, depth + 1)] for key, item in value.items()]]
    raise ValueFormError(f"a value of type {kind.__name__!r} is not plain")


def _plain(form: Any, depth: int) -> Any:
    if depth > MAX_DEPTH or type(form) is not list or not 1 <= len(form) <= 2:
        raise ValueFormError("no value in the restricted form")
    tag, payload = form[0], form[-1]
    if tag == "n" and len(form) == 1:
        return None
    if tag == "b" and payload in (0, 1):
        return bool(payload)
    if tag == "u" and type(payload) is str:
        return payload
    if tag in ("i", "f", "y") and type(payload) is str:
        return _scalar(tag, payload)
    if type(payload) is not list:
        raise ValueFormError("no value in the restricted form")
    if tag == "d":
        pairs = [(_plain(key, depth + 1), _plain(item, depth + 1)) for key, item in payload]
        _check_hashes([key for key, _ in pairs])
        return dict(pairs)
    items = [_plain(item, depth + 1) for item in payload]
    if tag in ("s", "z"):
        _check_hashes(items)
    return _CONTAINERS[tag](items)


def _check_hashes(keys: list[Any]) -> None:
    if len(keys) > _MAX_EQUAL_HASHES and max(Counter(map(hash, keys)).values()) > _MAX_EQUAL_HASHES:
        raise ValueFormError(f"a set or dict with more than {_MAX_EQUAL_HASHES} keys of one hash")


def _scalar(tag: str, payload: str) -> Any:
    if tag == "i":
        return int(payload, 16)
    if tag == "f":
        return float.fromhex(payload)
    return base64.b64decode(payload, validate=True)
