"""Values as text in a request: the styles in which OpenAPI writes parameters and the fields of a form.

Source: OpenAPI 3.1.1, section 4.8.12 (Parameter Object) and appendix C; RFC 6570, section 3.2.
What the standard leaves undefined is a choice: an array or object in any style but `deepObject` is JSON text,
and the items of an array in `deepObject` are numbered (`ids[0]=a`), as Stripe's API and PHP read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from agentrl.errors import ToolError

STYLES = {
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "path": ("simple", "label", "matrix"),
    "header": ("simple",),
    "cookie": ("form",),
}
"""The styles of each place, its default first."""
_DELIMITERS = {"form": ("", ","), "spaceDelimited": (" ", "%20"), "pipeDelimited": ("|", "%7C")}
# What `allowReserved` leaves as it is; `#[]&+=` would change the query that is read.
_RESERVED = ":/?@!$'()*,;"


def text_of(value: Any) -> str:
    """A value as text outside a JSON body: a string unchanged, null as an empty text, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json_text(value)


def json_text(value: Any) -> str:
    """A value as JSON without blanks. Raises: ValueError for a number that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def query_parts(
    name: str, value: Any, style: str, explode: bool, reserved: bool = False, shown: str | None = None
) -> list[str]:
    """The parts `name=value` of a query or a form, percent-encoded.

    Args: shown: what the model calls the argument.
    Raises: ToolError if an item holds the delimiter of a style that has no other way to write it.
    """

    def encoded(item: Any) -> str:
        return quote(text_of(item), safe=_RESERVED) if reserved else quote_plus(text_of(item))

    key = quote_plus(name)
    if style == "deepObject" and isinstance(value, Mapping | list):
        return [f"{quote_plus(name + path)}={encoded(item)}" for path, item in deep_items(value)]
    if isinstance(value, Mapping):
        if explode:
            return [f"{quote_plus(member)}={encoded(item)}" for member, item in value.items()]
        items = [text for member, item in value.items() for text in (member, item)]
    elif isinstance(value, list):
        if explode:
            return [f"{key}={encoded(item)}" for item in value]
        items = value
    else:
        return [f"{key}={encoded(value)}"]
    delimiter, written = _DELIMITERS.get(style, _DELIMITERS["form"])
    if delimiter and any(delimiter in text_of(item) for item in items):
        raise ToolError(f"{shown or name}: an item must not contain {delimiter!r}, which separates the items")
    return [f"{key}={written.join(map(encoded, items))}"] if items else []


def deep_items(value: Any) -> list[tuple[str, Any]]:
    """The leaves of a value, each with its path: `[a][b]`, `[0]`."""
    members = value.items() if isinstance(value, Mapping) else enumerate(value)
    found = []
    for key, item in members:
        inner = deep_items(item) if isinstance(item, Mapping | list) else [("", item)]
        found += [(f"[{key}]{path}", leaf) for path, leaf in inner]
    return found


def path_part(name: str, value: Any, style: str, explode: bool) -> str:
    """A value as a part of a path, percent-encoded; it cannot add or remove segments."""

    def encoded(item: Any) -> str:
        return quote(text_of(item), safe="")

    items = _items(value, explode, encoded)
    if style == "label":
        return "." + ("." if explode else ",").join(items)
    if style == "matrix":
        key = quote(name, safe="")
        if explode and isinstance(value, Mapping):
            return "".join(f";{item}" for item in items)
        if explode and isinstance(value, list):
            return "".join(f";{key}={item}" for item in items)
        joined = ",".join(items)
        return f";{key}={joined}" if joined else f";{key}"
    return ",".join(items)


def header_value(value: Any, explode: bool) -> str:
    """A value as the text of a header."""
    return ",".join(_items(value, explode, text_of))


def cookie_pairs(name: str, value: Any, explode: bool) -> list[tuple[str, str]]:
    """A value as cookies: name and text of each."""
    if explode and isinstance(value, Mapping):
        return [(member, text_of(item)) for member, item in value.items()]
    return [(name, ",".join(_items(value, False, text_of)))]


def _items(value: Any, explode: bool, text: Any) -> list[str]:
    """The items of an array; of an object its members, as `name=value` or one after the other; or the value."""
    if isinstance(value, Mapping):
        pairs = [(text(member), text(item)) for member, item in value.items()]
        return [f"{member}={item}" for member, item in pairs] if explode else [t for pair in pairs for t in pair]
    return [text(item) for item in value] if isinstance(value, list) else [text(value)]
