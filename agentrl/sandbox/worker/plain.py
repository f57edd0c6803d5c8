"""The form in which plain values travel between the host and a sandbox. Owns both directions; loads no code.

A value is one byte that names its type, then its content: `N`, `T`, `F`; `i` and `f` with hexadecimal digits up to
`;`; `u` and `y` with a length, `:` and the bytes; `l`, `t`, `s`, `z` and `d` with a count, `:` and the items. So
decoding can build nothing but exact built-in types, and it knows the size of everything before it builds it. Depth,
number of parts, integers, and comparisons of keys with equal hashes have bounds, so that no value holds the host up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64
MAX_PARTS = 100_000
"""Values in a value, itself and keys included."""
MAX_INT_BITS = 400_000
_MAX_WORK = 500_000
"""Comparisons of keys that have equal hashes: building a set or dict of such keys takes time that grows with their
square, and again with every level of sets in sets."""
_INT_CHARS, _FLOAT_CHARS = MAX_INT_BITS // 4 + 1, 64
_BYTES_PER_STEP = 1024
_HEAD = re.compile(rb"([NTF])|([if])([0-9a-finpx.+-]{1,%d}+);|([uyltszd])([0-9]{1,9}+):" % _INT_CHARS)
_SINGLE: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False}
_CONTAINERS: dict[bytes, Callable[[list[Any]], Any]] = {b"l": list, b"t": tuple, b"s": set, b"z": frozenset}
_TAG_OF: dict[Any, bytes] = {kind: tag for tag, kind in _CONTAINERS.items()}


class ValueFormError(ValueError):
    """A value that cannot travel: its type is not plain, it is too large, or the bytes do not have this form."""


def encode(value: Any) -> bytes:
    """The bytes of a value.

    Raises: ValueFormError for a type that is not plain (subclasses are not), or a value above a bound.
    """
    out: list[bytes] = []
    _put(value, 0, out)
    return b"".join(out)


def decode(content: bytes | memoryview) -> Any:
    """The value of bytes that `encode` made.

    Raises: ValueFormError for anything that `encode` does not produce.
    """
    try:
        return _Reader(content).whole()
    except ValueFormError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueFormError(f"no value in the restricted form: {type(error).__name__}") from None


def _put(value: Any, depth: int, out: list[bytes]) -> None:
    if depth > MAX_DEPTH:
        raise ValueFormError(f"a value nested deeper than {MAX_DEPTH} levels")
    if len(out) > 2 * MAX_PARTS:  # a part is at most two pieces; the reader counts exactly
        raise ValueFormError(f"a value of more than {MAX_PARTS} parts")
    kind: Any = type(value)
    if value is None:
        out.append(b"N")
    elif kind is bool:
        out.append(b"T" if value else b"F")
    elif kind is int:
        if value.bit_length() > MAX_INT_BITS:
            raise ValueFormError(f"an integer of more than {MAX_INT_BITS} bits")
        out.append(b"i%x;" % value)
    elif kind is float:
        out.append(f"f{value.hex()};".encode("ascii"))
    elif kind is str or kind is bytes:
        content = value if kind is bytes else value.encode("utf-8", "surrogatepass")
        out += (b"%c%d:" % (b"y" if kind is bytes else b"u", len(content)), content)
    elif kind in _TAG_OF:
        out.append(b"%c%d:" % (_TAG_OF[kind], len(value)))
        for item in value:
            _put(item, depth + 1, out)
    elif kind is dict:
        out.append(b"d%d:" % len(value))
        for pair in value.items():
            for item in pair:
                _put(item, depth + 1, out)
    else:
        raise ValueFormError(f"a value of type {kind.__name__!r} is not plain")


class _Reader:
    """Reads one value from bytes, and counts what that costs."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)  # slices are no copies
        self._at = 0
        self._parts_left = MAX_PARTS - 1
        self._work_left = _MAX_WORK

    def whole(self) -> Any:
        """The value that the bytes hold, and nothing else."""
        value = self._value(0)
        if self._at != len(self._content):
            raise ValueFormError("bytes after the value")
        return value

    def _value(self, depth: int) -> Any:
        head = _HEAD.match(self._content, self._at)
        if head is None:
            raise ValueFormError("no value in the restricted form")
        if depth > MAX_DEPTH:
            raise ValueFormError(f"a value nested deeper than {MAX_DEPTH} levels")
        self._at = head.end()
        single, number, digits, sized, count = head.groups()
        if sized:
            return self._sized(sized, int(count), depth)
        if number:
            return int(digits, 16) if number == b"i" else float.fromhex(digits[:_FLOAT_CHARS].decode("ascii"))
        return _SINGLE[single]

    def _sized(self, tag: bytes, count: int, depth: int) -> Any:
        if tag in b"uy":
            content = self._bytes(count)
            return bytes(content) if tag == b"y" else str(content, "utf-8", "surrogatepass")
        if tag == b"d":
            return self._dict(self._items(2 * count, depth))
        items = self._items(count, depth)
        if tag in b"sz":
            self._check_hashes(items)
        return _CONTAINERS[tag](items)

    def _bytes(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._content):
            raise ValueFormError("a value that is cut off")
        content, self._at = self._content[self._at : end], end
        return content

    def _items(self, count: int, depth: int) -> list[Any]:
        self._parts_left -= count
        if self._parts_left < 0:
            raise ValueFormError(f"a value of more than {MAX_PARTS} parts")
        depth += 1
        return [self._value(depth) for _ in range(count)]

    def _dict(self, items: list[Any]) -> dict[Any, Any]:
        keys = items[::2]
        self._check_hashes(keys)
        return dict(zip(keys, items[1::2], strict=True))

    def _check_hashes(self, keys: list[Any]) -> None:
        """Refuse keys that take long to be compared with each other."""
        if len(set(map(hash, keys))) == len(keys):
            return
        sizes = Counter(map(hash, keys))
        for key in keys:
            if sizes[hash(key)] > 1:
                self._spend(sizes[hash(key)] * self._cost(key))

    def _cost(self, key: Any) -> int:
        """About how many steps it takes to find out that a key differs from one of equal hash."""
        self._spend(2)
        if isinstance(key, tuple):
            return 1 + sum(map(self._cost, key))
        if isinstance(key, frozenset):
            most = max(Counter(map(hash, key)).values(), default=1)
            return 1 + most * sum(map(self._cost, key))
        if isinstance(key, int):
            return 1 + key.bit_length() // (8 * _BYTES_PER_STEP)
        return 1 + (len(key) // _BYTES_PER_STEP if isinstance(key, (str, bytes)) else 0)

    def _spend(self, steps: int) -> None:
        self._work_left -= steps
        if self._work_left < 0:
            raise ValueFormError("a set or dict with too many keys of one hash")
