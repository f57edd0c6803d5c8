"""Text and JSON that a model or a server wrote, made safe: it can be encoded, sent and stored afterwards.

Owns the bounds, and the words for what breaks one. Which arguments a tool takes belongs to `agentrl.tool_schema`.

A lone surrogate is half of a character outside the basic plane. JSON can write it (`"\\ud800"`), a Python text can
hold it, and no UTF-8 encoder accepts it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from msgspec.json import Encoder

MAX_DEPTH = 64
"""Levels of lists and objects in the arguments of one call."""
MAX_SIZE = 1 << 20
"""Characters of text in the arguments of one call, names included; every value counts one more."""
_MAX_BITS = 1023  # a longer integer may be infinite where JSON numbers are 64-bit floats
_MOST_SHOWN = 60
_write = Encoder().encode
# Control characters, marks of writing direction, line and paragraph separators, half characters, invisible tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)


def safe_text(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate; two that belong together become their character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def shown(text: str) -> str:
    """A text as a message quotes it: escaped, and cut short."""
    quoted = ascii(text) if not text.isprintable() else repr(text)
    return quoted if len(quoted) <= _MOST_SHOWN else quoted[: _MOST_SHOWN - 4] + "..." + quoted[-1]


def for_terminal(text: str) -> str:
    """A text as a terminal, a report or a log may show it: what moves the cursor, reorders or hides text is escaped.

    Line breaks and tabs stay. An escape is one that JSON knows, so that a JSON document is the same afterwards.
    """
    return text if text.isprintable() else _HIDDEN.sub(lambda found: json.dumps(found.group())[1:-1], text)


def problem_of(arguments: Mapping[str, Any]) -> str | None:
    """What makes the arguments of a call unsafe, with the name of the argument and what to do; None if they are safe.

    Safe arguments hold no lone surrogate and no number that is not finite, at most `MAX_DEPTH` levels and at most
    `MAX_SIZE` characters. Objects that are no JSON are let through: a model cannot write them.
    """
    try:
        written = _write(arguments)
        # Deeper nesting needs more bytes than this, and a number that is not finite is written as null. `find`, since
        # `in` first takes the text for a number, with an exception inside.
        if len(written) <= 2 * MAX_DEPTH and written.find(b"null") < 0:
            return None
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError, OverflowError):
        pass  # the slow way says what is wrong
    return _Examination().problem(arguments)


class _Examination:
    """Walks through the arguments of one call and counts their size."""

    def __init__(self) -> None:
        self.size = 0

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        for name, value in arguments.items():
            if self._of_text(name) is not None:
                return f"{shown(str(name))} holds half of a character in its name: write whole characters"
            found = self._of(value, 1)
            if found is not None:
                return f"{name if len(name) <= _MOST_SHOWN else shown(name)} {found}"
        return None

    def _of(self, value: Any, depth: int) -> str | None:
        self.size += 1
        if isinstance(value, str):
            found = self._of_text(value)
        elif isinstance(value, Mapping):
            found = self._too_deep(depth) or self._of_items(value, depth)
        elif isinstance(value, (list, tuple)):
            found = self._too_deep(depth) or next(filter(None, (self._of(item, depth + 1) for item in value)), None)
        else:
            found = _of_number(value)
        if found is None and self.size > MAX_SIZE:
            return f"is too long: a call takes at most {MAX_SIZE} characters in all; send less"
        return found

    def _of_items(self, value: Mapping[Any, Any], depth: int) -> str | None:
        return next(filter(None, (self._of_text(k) or self._of(v, depth + 1) for k, v in value.items())), None)

    def _of_text(self, text: Any) -> str | None:
        if not isinstance(text, str):
            return None
        self.size += len(text)
        if text.isascii():
            return None
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"holds \\u{ord(text[error.start]):04x}, which is half of a character: write whole characters"
        return None

    @staticmethod
    def _too_deep(depth: int) -> str | None:
        return f"is nested deeper than {MAX_DEPTH} levels: send a flatter value" if depth > MAX_DEPTH else None


def _of_number(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"holds {value}: a number must be finite"
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"holds an integer of more than {_MAX_BITS} bits: send a smaller number"
    return None


def made_safe(value: Any, *, depth: int = 0) -> Any:
    """A copy of a JSON value that breaks no bound of depth and holds no lone surrogate and no number beyond all bounds.

    U+FFFD stands for a lone surrogate, the number's text for one that is not finite, and "..." for what is too deep.
    """
    if isinstance(value, str):
        return safe_text(str.__str__(value))
    if isinstance(value, (Mapping, list, tuple)) and depth > MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {made_safe(key): made_safe(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [made_safe(item, depth=depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return number_text(value)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"an integer of {value.bit_length()} bits"
    return value


def number_text(value: float) -> str:
    """The text that stands for a number which JSON does not have: `NaN`, `Infinity` or `-Infinity`."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
