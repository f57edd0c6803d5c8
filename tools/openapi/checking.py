"""Turns resolved JSON schemas into Python types, with which pydantic checks a tool's arguments.

The model sees keywords that pydantic cannot express (format, `not`, conditional schemas), but only the server checks
them. A type is built when a tool is first called: a document may have a thousand tools.

The library `jsonschema` (4.26) was measured and is not used:
- `import jsonschema` takes 150 ms on top of the 350 ms of httpx and pydantic, which tools need anyway.
- `jsonschema` matches `pattern` with Python's `re`: a model that sends 27 characters against `^(a+)+$` stops the
  process for 3 s. pydantic's engine takes 0.1 ms, because its time grows only linearly with the text.
- `jsonschema` refuses "5" for an integer, which every other tool converts, and its error texts repeat the whole
  wrong value, however long it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, create_model
from pydantic_core import PydanticCustomError, SchemaError, core_schema

Schema = Mapping[str, Any]
logger = logging.getLogger(__name__)
_SIMPLE: dict[str, Any] = {"string": str, "integer": int, "number": int | float, "boolean": bool, "null": type(None)}
_SIZES = {"minLength": "min_length", "maxLength": "max_length", "minItems": "min_length", "maxItems": "max_length"}
_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}
# For each type: keywords of JSON schema and the arguments of pydantic's Field with the same meaning.
_CONSTRAINTS = {
    "string": {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"},
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "array": {"minItems": "min_length", "maxItems": "max_length"},
}
_MOST_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Checked:
    """Marks `Annotated[Any, Checked(schema)]`: the value is checked against a resolved schema."""

    schema: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        try:
            return handler.generate_schema(python_type(self.schema))
        except Exception as error:  # a schema that is none must not fail a call: the server checks it
            logger.warning("an argument is not checked before it is sent, as its schema cannot be used: %s", error)
            return core_schema.any_schema()


def plain(value: Any) -> Any:
    """A checked value as JSON values: objects hold the members that were given, under their own names."""
    if isinstance(value, BaseModel):
        given = {field.alias or name: name for name, field in type(value).model_fields.items()}
        found = {alias: plain(getattr(value, name)) for alias, name in given.items() if name in value.model_fields_set}
        return {**found, **(value.__pydantic_extra__ or {})}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def python_type(schema: Any) -> Any:
    """The type with which pydantic validates values of a resolved schema."""
    if not isinstance(schema, Mapping):
        return Any
    if "const" in schema:
        return _one_of([schema["const"]])
    if isinstance(schema.get("enum"), list):
        return _one_of(schema["enum"])
    for union in ("oneOf", "anyOf"):
        if isinstance(schema.get(union), list) and schema[union]:
            return Union[tuple(map(python_type, schema[union]))]  # noqa: UP007
    kinds = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kinds, str):
        return _of_kind(kinds, schema)
    if isinstance(kinds, Sequence) and kinds:
        return Union[tuple(_of_kind(kind, schema) for kind in kinds)]  # noqa: UP007
    return Any


def _one_of(values: Sequence[Any]) -> Any:
    if values and all(isinstance(value, str) or value is None for value in values):
        return Literal[tuple(values)]
    return Annotated[Any, _OneOf(tuple(values))]


@dataclass(frozen=True, eq=False)
class _OneOf:
    """One of some JSON values. Python's Literal takes only few types, and holds True equal to 1."""

    values: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def check(self, value: Any) -> Any:
        for allowed in self.values:
            if _equal(value, allowed):
                return allowed
        shown = [repr(allowed)[:80] for allowed in self.values[:_MOST_SHOWN]]
        more = ["..."] if len(self.values) > _MOST_SHOWN else []
        raise PydanticCustomError("one_of", "Input should be {allowed}", {"allowed": " or ".join([*shown, *more])})


def _equal(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; true is not 1, and 1.0 is."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(_equal(value[key], other[key]) for key in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_equal, value, other))
    return bool(value == other)


def _of_kind(kind: Any, schema: Schema) -> Any:
    if kind == "object":
        return _object(schema)
    if kind == "array":
        base: Any = list[python_type(schema.get("items"))]  # type: ignore[misc]
    elif isinstance(kind, str) and kind in _SIMPLE:
        base = _SIMPLE[kind]
    else:
        return Any
    options = {}
    for word, field in _CONSTRAINTS.get(kind, {}).items():
        if _is_usable(word, schema.get(word)):
            options[field] = int(schema[word]) if word in _SIZES else schema[word]
    return _constrained(base, options) if options else base


def _is_usable(word: str, value: Any) -> bool:
    """Whether a keyword has a value of the right kind; the server checks what is not usable here."""
    if word == "pattern":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return word not in _SIZES or value >= 0


def _constrained(base: Any, options: dict[str, Any]) -> Any:
    if "pattern" in options:
        try:
            TypeAdapter(Annotated[str, Field(pattern=options["pattern"])])
        except SchemaError:  # pydantic does not support this regular expression: only the server checks it
            del options["pattern"]
    return Annotated[base, Field(**options)]


def _object(schema: Schema) -> Any:
    properties = schema.get("properties")
    more = schema.get("additionalProperties")
    if not isinstance(properties, Mapping) or not properties:
        return dict[str, python_type(more)] if isinstance(more, Mapping) else dict[str, Any]  # type: ignore[misc]
    required = schema.get("required", ())
    fields: dict[str, Any] = {}
    for index, (key, item) in enumerate(properties.items()):
        options: dict[str, Any] = {"alias": key} if key in required else {"alias": key, "default": None}
        # An optional member that is not given is not sent either: see `plain`.
        fields[f"p{index}"] = (python_type(item), Field(**options))
    # A name that is no identifier: messages then leave it out where it stands for a branch of a union.
    return create_model("an object", __base__=_OpenObject if more else _Object, **fields)


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class _OpenObject(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)
