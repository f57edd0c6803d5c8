"""Removes secrets from texts, so that a server that echoes a key puts it into no record, cassette or error.

The one place that knows in which forms a secret can stand in a text. Redact what came from outside as soon as it is
text, and before it is cut: whatever decodes the text later (JSON, percent signs, HTML) then finds nothing.

Does not find a secret that a server encrypts, hashes, spells out or splits.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from html.entities import html5

REDACTED = "REDACTED"
_LONG = 6
"""Characters from which on a secret is also looked for inside other base64 and as hexadecimal digits."""
_LEAST_CUT = 4
"""Characters of a secret's beginning that count, at the end of a text that was cut off there."""
_WIDEST = 24  # characters of one escape, such as four percent signs of a character
_HALF = re.compile(r"([\\\\%&][\\\\\w#;%&]{0,24})?")
_USER = re.compile(r"://[^/\s@\"'<>]{0,1000}@")
_PARAMETER = re.compile(
    r"(?i)([?&](?:[\w.-]{0,40}[_.-])?(?:key|apikey|token|secret|password|passwd|pwd|signature|sig|auth|credential)=)[^&\s\"'<>#]+"
)
_NAMED: dict[str, list[str]] = {}
for _name, _character in html5.items():
    _NAMED.setdefault(_character, []).append(_name)
_SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


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
        value = _pattern(self._known).sub(REDACTED, value)
        return self._without_beginning(value) if cut_off else value

    def content(self, value: bytes, *, cut_off: bool = False) -> bytes:
        """The bytes without secrets, whatever they are: UTF-8, UTF-16, or no text at all."""
        if not self._known or not value:
            return value
        for secret in self._known:
            for encoding in ("utf-16-le", "utf-16-be"):
                value = value.replace(secret.encode(encoding, "replace"), REDACTED.encode(encoding))
        return self.text(value.decode("utf-8", "surrogateescape"), cut_off=cut_off).encode("utf-8", "surrogateescape")

    def _without_beginning(self, value: str) -> str:
        """The text without the beginning of a secret at its end."""
        for secret in self._known:
            characters = _characters(secret)
            for start in range(max(0, len(value) - _WIDEST * len(secret)), len(value)):
                if _is_beginning(characters, value, start):
                    return value[:start] + REDACTED
        return value


def _is_beginning(characters: Sequence[re.Pattern[str]], value: str, start: int) -> bool:
    """Whether a text ends, from a place on, with a secret's first characters; the last one may be half an escape."""
    place = start
    for number, character in enumerate(characters):
        found = character.match(value, place)
        if found is None:
            return number >= _LEAST_CUT and _HALF.fullmatch(value, place) is not None
        place = found.end()
    return False


@lru_cache(maxsize=64)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str]:
    """Finds every secret in every form; longer ones first."""
    forms = [form for secret in secrets for form in _forms(secret)]
    return re.compile("|".join(dict.fromkeys(forms)))


@lru_cache(maxsize=256)
def _characters(secret: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(_written(character)) for character in secret)


def _forms(secret: str) -> Iterator[str]:
    yield "".join(map(_written, secret))
    encoded = secret.encode("utf-8", "surrogatepass")
    yield _base64(base64.b64encode(encoded).decode().rstrip("=")) + "=*"
    if len(secret) < _LONG:
        return
    yield f"(?i:{encoded.hex()})"
    for before in (1, 2):
        # Inside other base64: without the digits that also depend on the neighbours.
        digits = base64.b64encode(b"\0" * before + encoded).decode().rstrip("=")
        yield _base64(digits[before + 1 : len(digits) - ((before + len(encoded)) % 3 > 0)])
    whole = len(encoded) // 3 * 4
    if whole >= 8:
        yield _base64(base64.b64encode(encoded).decode()[:whole])


def _base64(digits: str) -> str:
    """Digits of base64, in the alphabet of addresses too, and with the escapes of JSON and of addresses."""
    return "".join(
        digit if digit.isalnum() else f"(?:{_written(digit)}|{'-' if digit == '+' else '_'})" for digit in digits
    )


@lru_cache(maxsize=4096)
def _written(character: str) -> str:
    """A pattern of every way to write one character."""
    ways = [_json(character), _percent(character), *_entities(character)]
    if character == " ":
        ways.append(r"\+")
    if character == '"' or character in "/'\\":
        ways.append(rf"\\{{1,8}}{re.escape(character)}")
    if character in _SHORT:
        ways.append(rf"\\{{1,8}}{_SHORT[character]}")
    return f"(?:{'|'.join([*ways, re.escape(character)])})"  # as it is last: an escape may begin with itself


def _json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\\{{1,8}}u(?i:{units[i : i + 4]})" for i in range(0, len(units), 4))


def _percent(character: str) -> str:
    encoded = character.encode("utf-8", "surrogatepass")
    return "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in encoded)


def _entities(character: str) -> Iterator[str]:
    code = ord(character)
    yield f"&(?:amp;){{0,3}}#0{{0,6}}{code};?"
    yield f"&(?:amp;){{0,3}}#[xX]0{{0,6}}(?i:{code:x});?"
    for name in _NAMED.get(character, ()):
        yield f"&(?:amp;){{0,3}}{re.escape(name)}"
