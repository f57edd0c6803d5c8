"""Removes secrets from texts, so that a server that echoes a key puts it into no record, cassette or error.

The one place that knows in which forms a secret can stand in a text. Redact what came from outside as soon as it is
text, and before it is cut: whatever decodes the text later (JSON, percent signs, HTML) then finds nothing.

Does not find a secret that a server encrypts, hashes, spells out or splits.
"""

from __future__ import annotations

import base64
import html
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

REDACTED = "REDACTED"
_LONG = 6
"""Characters from which on a secret is also looked for inside other base64 and as hexadecimal digits."""
_LEAST_CUT, _LEAST_DIGITS_CUT = 4, 8
"""Characters of a secret's beginning that count, at the end of a text that was cut off there; and of its digits."""
_MOST_READINGS = 24
"""Readings of one text: as it is, and decoded in turn as JSON, percent signs or HTML."""
_HALF = re.compile(r"[\\%&][\\\w#;%&]{0,24}\Z")
_USER = re.compile(r"://[^/\s@\"'<>]{0,1000}@")
_PARAMETER = re.compile(
    r"(?i)([?&](?:[\w.-]{0,40}[_.-])?(?:key|apikey|token|secret|password|passwd|pwd|signature|sig|auth|credential)=)"
    r"[^&\s\"'<>#]+"
)
_UNITS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def without_credentials(text: str) -> str:
    """A text without the user and password of addresses in it, and without parameters of addresses that name a key."""
    return _PARAMETER.sub(rf"\1{REDACTED}", _USER.sub("://", text))


class Redactor:
    """Replaces secrets by `REDACTED`, in whatever form each of their characters is written.

    That is plain, as a JSON escape (`\\u002b`, `\\/`, also escaped again), percent-encoded in either case, as an HTML
    entity, or any mixture; and the whole secret in base64, alone or as a part (as in `Basic` credentials), or as
    hexadecimal digits.

    Args:
        secrets: the secret values; empty ones are ignored.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._known = tuple(sorted({secret for secret in secrets if secret}, key=len, reverse=True))

    def text(self, value: str, *, cut_off: bool = False) -> str:
        """The text without secrets.

        Args: cut_off: the text was cut off at its end, where the beginning of a secret may stand.
        """
        if not self._known or not value:
            return value
        forms, readings = _forms(self._known), _readings(value)
        spans = [span for reading in readings for span in reading.spans_of(forms)]
        if cut_off:
            for reading in readings:
                spans += reading.beginnings(self._known, _LEAST_CUT)
                spans += reading.beginnings(forms, _LEAST_DIGITS_CUT)
        return _replaced(value, spans) if spans else value

    def content(self, value: bytes, *, cut_off: bool = False) -> bytes:
        """The bytes without secrets, whatever they are: UTF-8, UTF-16, or no text at all."""
        if not self._known or not value:
            return value
        for secret in self._known:
            for encoding in ("utf-16-le", "utf-16-be"):
                value = value.replace(secret.encode(encoding, "replace"), REDACTED.encode(encoding))
        return self.text(value.decode("utf-8", "surrogateescape"), cut_off=cut_off).encode("utf-8", "surrogateescape")


def _replaced(value: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with `REDACTED` in the place of each span; those that overlap become one."""
    pieces, place = [], 0
    for start, end in sorted(spans):
        if start >= place:
            pieces += [value[place:start], REDACTED]
        place = max(place, end)
    return "".join([*pieces, value[place:]])


@lru_cache(maxsize=64)
def _forms(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """What stands for a secret as a whole."""
    return tuple(dict.fromkeys(form for secret in secrets for form in _forms_of(secret) if form))


def _forms_of(secret: str) -> Iterator[str]:
    yield secret
    yield secret.replace(" ", "+")
    encoded = secret.encode("utf-8", "surrogatepass")
    digits = base64.b64encode(encoded).decode()
    found = [digits, digits.rstrip("=")] if len(secret) >= _LEAST_CUT else []
    if len(secret) >= _LONG:
        yield from (encoded.hex(), encoded.hex().upper())
        for before in range(3):
            # Inside other base64: without the digits that also depend on the neighbours.
            digits = base64.b64encode(b"\0" * before + encoded).decode().rstrip("=")
            found.append(digits[before and before + 1 : len(digits) - ((before + len(encoded)) % 3 > 0)])
    for digits in found:
        yield from (digits, digits.translate(str.maketrans("+/", "-_")))


@dataclass(frozen=True)
class _Reading:
    """A text, or what it becomes where an encoding is read; each place in it is one of the text before.

    Attributes:
        text: as it reads.
        before: what was decoded; None is the text as it is.
        starts, ends: of each decoded escape, in this text.
        origins: (start, end) of each of these escapes, in the text before.
    """

    text: str
    before: _Reading | None = None
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    origins: list[tuple[int, int]] = field(default_factory=list)

    def spans_of(self, forms: Iterable[str]) -> Iterator[tuple[int, int]]:
        """Where one of the forms stands, as places of the text as it is."""
        for form in forms:
            place = self.text.find(form)
            while place >= 0:
                yield self._origin(place, place + len(form))
                place = self.text.find(form, place + len(form))

    def beginnings(self, secrets: Iterable[str], least_chars: int) -> Iterator[tuple[int, int]]:
        """Where the text ends with at least so much of the beginning of a secret; half an escape may follow it."""
        half = _HALF.search(self.text)
        for end in {len(self.text), half.start() if half is not None else len(self.text)}:
            for secret in secrets:
                least = max(0, end - len(secret))
                kept = self.text[least:end]
                found = next((n for n in range(len(kept), least_chars - 1, -1) if kept.endswith(secret[:n])), 0)
                if found:
                    start, _ = self._origin(end - found, end)
                    yield start, self._length()

    def _length(self) -> int:
        return len(self.text) if self.before is None else self.before._length()

    def _origin(self, start: int, end: int) -> tuple[int, int]:
        """The places of the text as it is that two places come from."""
        if self.before is None:
            return start, end
        return self.before._origin(self._place(start)[0], self._place(end - 1)[1])

    def _place(self, at: int) -> tuple[int, int]:
        """Where the character at a place begins and ends in the text before."""
        index = bisect_right(self.starts, at) - 1
        if index < 0:
            return at, at + 1
        if at < self.ends[index]:
            return self.origins[index]
        behind = self.origins[index][1] + at - self.ends[index]
        return behind, behind + 1

    def decoded(self, escape: re.Pattern[str], read: Callable[[str], str]) -> _Reading | None:
        """This text with its escapes read once; None if it has none."""
        made = _Reading("", self)
        pieces, place, length = [], 0, 0
        for found in escape.finditer(self.text):
            plain = read(found.group())
            if plain == found.group() or not plain:
                continue
            between = self.text[place : found.start()]
            pieces += [between, plain]
            made.starts.append(length + len(between))
            length += len(between) + len(plain)
            made.ends.append(length)
            made.origins.append(found.span())
            place = found.end()
        if not pieces:
            return None
        pieces.append(self.text[place:])
        return _Reading("".join(pieces), self, made.starts, made.ends, made.origins)


def _readings(value: str) -> list[_Reading]:
    """The text as it is, and what it becomes where it is decoded in any order."""
    found = [_Reading(value)]
    seen = {value}
    for reading in found:
        for sign, escape, read in _ENCODINGS:
            if len(found) >= _MOST_READINGS:
                return found
            made = reading.decoded(escape, read) if sign in reading.text else None
            if made is not None and made.text not in seen:
                seen.add(made.text)
                found.append(made)
    return found


def _of_json(escape: str) -> str:
    if escape[1] != "u":
        return _UNITS.get(escape[1], escape[1])
    units = bytes.fromhex(escape.replace("\\u", ""))
    return units.decode("utf-16-be", "replace")


_ENCODINGS: Sequence[tuple[str, re.Pattern[str], Callable[[str], str]]] = (
    (
        "\\",
        re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[/\"'\\bfnrt]"),
        _of_json,
    ),
    (
        "%",
        re.compile(
            r"(?i)%[0-7][0-9a-f]|%[cd][0-9a-f]%[89ab][0-9a-f]|%e[0-9a-f](?:%[89ab][0-9a-f]){2}"
            r"|%f[0-9a-f](?:%[89ab][0-9a-f]){3}"
        ),
        unquote,
    ),
    ("&", re.compile(r"&#[xX]?[0-9a-fA-F]{1,8};?|&[A-Za-z][A-Za-z0-9]{1,31};?"), html.unescape),
)
