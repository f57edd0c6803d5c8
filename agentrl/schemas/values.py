"""Draws random values that fit a JSON schema, also awkward ones such as models send. Checks nothing.

`pattern`, `format`, `allOf` and `not` are ignored: a value may break them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Schema = Mapping[str, Any]

_TEXTS = (
    *("", "tea", "blue", "42", "1 + 1", "select 1", "O'Brien", 'a "quoted" one', "naïve ☕"),
    *("two\nlines", "100%", "; DROP TABLE x", "x" * 300),
)
_INTEGERS = (0, 1, -1, 2, 7, 100, -1000, 999_999, 10**12, 10**20)
_NUMBERS = (0.0, 1.0, -1.0, 0.5, 3.14159, 1e9, -2.5)
# Valid as well, and what code is least prepared for; drawn only where a caller asks for it.
_ODD_TEXTS = (
    *("\x00", "a\x00b", "../..", "/etc/passwd", "%s %n {0} ${x}", "NaN", "-1e400", "9" * 400, "\u202e", "\ufeff"),
    *("e\u0301", "👩‍👩‍👧", "\r\n", " ", "\t", "[[[[", "{", "*", "(", "\\", "x" * 70_000),
)
_ODD_INTEGERS = (2**31, -(2**31) - 1, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**100)
_ODD_NUMBERS = (-0.0, 1e308, -1e308, 5e-324, 1e-12, 2.0**53)
_ANY_KIND = ("string", "integer", "number", "boolean", "null", "array", "object")
_OPTIONAL_GIVEN = 0.7
_AWKWARD = 0.5
_OPEN_WIDTH = 100
_MOST_EXTRA_ITEMS = 3
_MAX_DEPTH = 4


def draw_arguments(schema: Schema, rng: np.random.Generator, *, odd: bool = False) -> dict[str, Any]:
    """Arguments for one call.

    Args:
        schema: `parameters` of a tool: an object schema.
        rng: the source of every choice.
        odd: prefer values that are valid and that code is least prepared for, such as NUL and 2**63.
    """
    drawn = draw_value(schema, rng, odd=odd)
    return drawn if isinstance(drawn, dict) else {}


def draw_value(schema: Schema, rng: np.random.Generator, *, odd: bool = False) -> Any:
    """A value that the schema accepts.

    Args:
        schema: a JSON schema; `$ref` points into it.
        rng: the source of every choice.
        odd: as for `draw_arguments`.
    """
    return _Drawer(schema, rng, odd).value(schema, 0)


@dataclass(frozen=True)
class _Drawer:
    """Draws values for the parts of one schema. From depth `_MAX_DEPTH` on, it draws the smallest that fits."""

    root: Schema
    rng: np.random.Generator
    odd: bool = False

    def value(self, schema: Schema | bool, depth: int) -> Any:
        if isinstance(schema, bool):
            schema = {}
        if "$ref" in schema:
            return self.value(_resolve(str(schema["$ref"]), self.root), depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.value(self._branch(schema[key], depth), depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else _ANY_KIND if self.odd else "string")
        return self._of_kind(kind if isinstance(kind, str) else self._choice(kind), schema, depth)

    def _of_kind(self, kind: str, schema: Schema, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return bool(self.rng.integers(2))
            case "null":
                return None
            case _:
                return self._text(schema)

    def _branch(self, branches: Sequence[Schema], depth: int) -> Schema:
        """One branch of a union; from depth `_MAX_DEPTH` on, one without inner values if there is one."""
        flat = [b for b in branches if b.get("type") not in ("object", "array") and "$ref" not in b]
        chosen: Schema = self._choice(flat if depth >= _MAX_DEPTH and flat else branches)
        return chosen

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        drawn = {}
        for name, item in schema.get("properties", {}).items():
            if name in required or (depth < _MAX_DEPTH and self.rng.random() < _OPTIONAL_GIVEN):
                drawn[name] = self.value(item, depth + 1)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping) and depth < _MAX_DEPTH:
            names = ("a", "b")[: int(self.rng.integers(3))]
            drawn.update({name: self.value(extra, depth + 1) for name in names})
        return drawn

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first = [self.value(item, depth + 1) for item in schema.get("prefixItems", ())]
        items = schema.get("items", not first)
        if items is False:
            return first
        least = max(int(schema.get("minItems", 0)) - len(first), 0)
        most = max(int(schema.get("maxItems", len(first) + least + _MOST_EXTRA_ITEMS)) - len(first), least)
        size = least if depth >= _MAX_DEPTH else int(self.rng.integers(least, most + 1))
        values = first + [self.value(items, depth + 1) for _ in range(size)]
        return [v for i, v in enumerate(values) if v not in values[:i]] if schema.get("uniqueItems") else values

    def _number(self, schema: Schema, *, whole: bool) -> int | float:
        low, high = _whole_bounds(schema) if whole else _bounds(schema)
        pool = (_ODD_INTEGERS if whole else _ODD_NUMBERS) if self.odd else (_INTEGERS if whole else _NUMBERS)
        usual = [value for value in (*pool, low, high) if low <= value <= high]
        fitting = [value for value in usual if math.isfinite(value)]
        value = self._choice(fitting) if fitting and self.rng.random() < _AWKWARD else self._between(low, high, whole)
        return _multiple(value, schema["multipleOf"], low) if schema.get("multipleOf") else value

    def _between(self, low: float, high: float, whole: bool) -> int | float:
        """A number between two bounds; an infinite bound is replaced by one at a distance of `_OPEN_WIDTH`."""
        if math.isinf(low):
            low = 0 if math.isinf(high) else high - _OPEN_WIDTH
        if math.isinf(high):
            high = low + _OPEN_WIDTH
        step = self.rng.random() * (high - low + whole)
        return min(low + (int(step) if whole else step), high)

    def _text(self, schema: Schema) -> str:
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        text = str(self._choice(_ODD_TEXTS if self.odd else _TEXTS)).ljust(least, "a")
        return text if most is None else text[: int(most)]

    def _choice(self, options: Sequence[Any]) -> Any:
        """One of the options as it is; `rng.choice` would convert it to a numpy type."""
        return options[int(self.rng.integers(len(options)))]


def _resolve(reference: str, root: Schema) -> Schema:
    """What a `$ref` such as `#/$defs/Item` points to; the empty schema where it points nowhere."""
    found: Any = root
    for part in reference.split("/")[1:]:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _bounds(schema: Schema) -> tuple[float, float]:
    """The least and the greatest number that fit, infinite where there is no bound."""
    lows = [schema["minimum"]] if "minimum" in schema else []
    lows += [math.nextafter(schema["exclusiveMinimum"], math.inf)] if "exclusiveMinimum" in schema else []
    highs = [schema["maximum"]] if "maximum" in schema else []
    highs += [math.nextafter(schema["exclusiveMaximum"], -math.inf)] if "exclusiveMaximum" in schema else []
    return float(max(lows, default=-math.inf)), float(min(highs, default=math.inf))


def _whole_bounds(schema: Schema) -> tuple[float, float]:
    """The least and the greatest integer that fit, infinite where there is no bound."""
    lows = [math.ceil(schema["minimum"])] if "minimum" in schema else []
    lows += [math.floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    highs = [math.floor(schema["maximum"])] if "maximum" in schema else []
    highs += [math.ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    return max(lows, default=-math.inf), min(highs, default=math.inf)


def _multiple(value: float, factor: float, low: float) -> float:
    """The largest multiple of a factor up to a value, or the next one if that is below the lower bound."""
    below = value // factor * factor
    return below if below >= low else below + factor
