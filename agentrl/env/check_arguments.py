"""Random arguments that fit a tool's JSON schema, with the awkward values that models do send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_TEXTS = ("", "tea", "42", "O'Brien", 'a "quoted" one', "naïve ☕", "two\nlines", "100%", "; DROP TABLE x", "x" * 300)
_INTEGERS = (0, 1, -1, 2, 7, 100, -1000, 999_999, 10**12, 10**20)
_NUMBERS = (0.0, 1.0, -1.0, 0.5, 3.14159, 1e9, -2.5)
_OPTIONAL_GIVEN = 0.7
_MAX_DEPTH = 4


def draw_arguments(schema: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Arguments for one call.

    Args:
        schema: `parameters` of a tool: an object schema.
        rng: the source of every choice.
    Returns: a dictionary that fits the schema, but for `pattern` and `format`, which are not solved.
    """
    drawn = _draw(schema, rng, schema.get("$defs", {}), 0)
    return drawn if isinstance(drawn, dict) else {}


def _draw(schema: Mapping[str, Any], rng: np.random.Generator, defs: Mapping[str, Any], depth: int) -> Any:
    if "$ref" in schema:
        schema = defs.get(str(schema["$ref"]).rsplit("/", 1)[-1], {})
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _choice(schema["enum"], rng)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _draw(_branch(schema[key], rng, depth), rng, defs, depth + 1)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = _choice(kind, rng)
    if kind == "object":
        return _object(schema, rng, defs, depth)
    if kind == "array":
        return _array(schema, rng, defs, depth)
    return _scalar(kind, schema, rng)


def _branch(branches: list[Mapping[str, Any]], rng: np.random.Generator, depth: int) -> Mapping[str, Any]:
    """A branch of a union; past the depth limit the first that holds nothing else."""
    flat = [b for b in branches if b.get("type") not in ("object", "array") and "$ref" not in b]
    chosen: Mapping[str, Any] = _choice(flat if depth >= _MAX_DEPTH and flat else branches, rng)
    return chosen


def _object(schema: Mapping[str, Any], rng: np.random.Generator, defs: Mapping[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    drawn = {}
    for name, item in schema.get("properties", {}).items():
        if name in required or (depth < _MAX_DEPTH and rng.random() < _OPTIONAL_GIVEN):
            drawn[name] = _draw(item, rng, defs, depth + 1)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping) and depth < _MAX_DEPTH:
        drawn.update({key: _draw(extra, rng, defs, depth + 1) for key in ("a", "b")[: int(rng.integers(3))]})
    return drawn


def _array(schema: Mapping[str, Any], rng: np.random.Generator, defs: Mapping[str, Any], depth: int) -> list[Any]:
    drawn = [_draw(item, rng, defs, depth + 1) for item in schema.get("prefixItems", ())]
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return drawn
    least = max(int(schema.get("minItems", 0)) - len(drawn), 0)
    most = max(int(schema.get("maxItems", len(drawn) + least + 3)) - len(drawn), least)
    size = least if depth >= _MAX_DEPTH else int(rng.integers(least, most + 1))
    values = drawn + [_draw(items, rng, defs, depth + 1) for _ in range(size)]
    return [v for i, v in enumerate(values) if v not in values[:i]] if schema.get("uniqueItems") else values


def _scalar(kind: str, schema: Mapping[str, Any], rng: np.random.Generator) -> Any:
    if kind == "null":
        return None
    if kind == "boolean":
        return bool(rng.integers(2))
    if kind == "integer":
        return int(_number(schema, rng, _INTEGERS, step=1))
    if kind == "number":
        return float(_number(schema, rng, _NUMBERS, step=1e-6))
    return _text(schema, rng)


def _number(schema: Mapping[str, Any], rng: np.random.Generator, usual: tuple[float, ...], step: float) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - step
    low_end = -np.inf if low is None else low
    high_end = np.inf if high is None else high
    fitting = [value for value in (*usual, low, high) if value is not None and low_end <= value <= high_end]
    if low is not None and high is not None and rng.random() < 0.5:
        fitting = [low + step * int(rng.integers(0, int((high - low) / step) + 1))]
    value: float = _choice(fitting or [0], rng)
    factor = schema.get("multipleOf")
    return value if not factor else round(value / factor) * factor


def _text(schema: Mapping[str, Any], rng: np.random.Generator) -> str:
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    text = str(_choice(_TEXTS, rng)).ljust(least, "a")
    return text if most is None else text[: int(most)]


def _choice(options: Any, rng: np.random.Generator) -> Any:
    """One of the options, unconverted: numpy's own choice would turn them into its types."""
    return options[int(rng.integers(len(options)))]
